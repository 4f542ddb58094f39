//! How the demonstration looks: headings, sentences, a line that changes in place, tables.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};
use std::time::Instant;

/// Where everything is printed.
pub(crate) struct Screen {
    started: Instant,
    terminal: bool,
    chapter: usize,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), terminal: stdout().is_terminal(), chapter: 0 }
    }

    /// Whether a person is looking.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let text = format!("{}. {title}", self.chapter);
        let text = if self.terminal { format!("\x1b[1m{text}\x1b[0m") } else { text };
        println!("\n{text}   [{:.0} s]", self.elapsed());
    }

    pub(crate) fn say(&self, text: impl Display) {
        if self.terminal {
            print!("\r\x1b[K");
        }
        println!("   {text}");
    }

    /// A line that the next one replaces; only shown where lines can be replaced.
    pub(crate) fn passing(&self, text: impl Display) {
        if self.terminal {
            print!("\r\x1b[K   {text}");
            let _ = stdout().flush();
        }
    }

    /// A table whose cells are wrapped at the widths given.
    pub(crate) fn table(&self, heads: &[&str], widths: &[usize], rows: &[Vec<String>]) {
        let rule = widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("  ");
        let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
        self.row(&heads, widths);
        self.say(&rule);
        for row in rows {
            self.row(row, widths);
        }
        self.say(&rule);
    }

    fn row(&self, cells: &[String], widths: &[usize]) {
        let wrapped: Vec<Vec<String>> =
            cells.iter().zip(widths).map(|(cell, width)| wrap(cell, *width)).collect();
        let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..height {
            let parts = wrapped.iter().zip(widths).map(|(cell, width)| {
                let text = cell.get(line).map_or("", String::as_str);
                format!("{text:<width$}")
            });
            self.say(parts.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

/// Breaks at blanks, and in words that are longer than a line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_owned();
        loop {
            let line = lines.last_mut().expect("there is always one");
            let used = line.chars().count();
            let needed = word.chars().count() + usize::from(used > 0);
            if used + needed <= width {
                if used > 0 {
                    line.push(' ');
                }
                line.push_str(&word);
                break;
            }
            if used == 0 {
                let rest = word.chars().skip(width).collect();
                line.extend(word.chars().take(width));
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_are_wrapped_at_blanks() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefg h", 3), ["abc", "def", "g h"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
