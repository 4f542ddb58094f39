//! `docs/correctness-rules.md` names the tests of each rule: they exist.

use std::fs;
use std::path::PathBuf;

/// Where the tree is now, and not where it was built.
fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("..")
}

#[test]
fn every_rule_has_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/correctness-rules.md")).expect("the page is there");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    let mut rules = 0;
    let mut wrong = Vec::new();
    for (rule, tests) in rows.filter(|(rule, _)| !matches!(*rule, "rule" | "---")) {
        rules += 1;
        let named: Vec<&str> = tests.split('`').filter(|name| !name.trim().is_empty()).collect();
        if named.is_empty() {
            wrong.push(format!("no test: {rule}"));
        }
        for name in named {
            if !exists(name) {
                wrong.push(format!("{name} is not there: {rule}"));
            }
        }
    }
    assert!(rules > 5, "the page has lost its tables");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether `file#function` is a test.
fn exists(name: &str) -> bool {
    let Some((file, function)) = name.split_once('#') else { return false };
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let is_test = |at: usize| {
        lines[..at].iter().rev().take(3).any(|line| line.trim().starts_with("#[") && line.contains("test"))
    };
    let begins = |line: &str| {
        let line = line.trim().trim_start_matches("async ");
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(function))
            .is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().any(|(at, line)| begins(line) && is_test(at))
}
