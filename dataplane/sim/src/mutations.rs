//! The check of the checkers: plants every bug of `mas_core::mutation` in turn, and says which checker found it, after how
//! many seeds.

#[cfg(not(feature = "mutations"))]
pub(crate) use self::without::*;

#[cfg(feature = "mutations")]
pub(crate) use self::with::*;

#[cfg(not(feature = "mutations"))]
mod without {
    use crate::situation::About;

    const WHY: &str = "planted bugs are not built in: cargo run -p sim --features mutations -- …";

    pub(crate) fn find(_: &str) -> Result<(), String> {
        Err(WHY.to_owned())
    }

    pub(crate) fn plant(_: Option<&str>) {}

    pub(crate) fn list() -> Result<(), String> {
        Err(WHY.to_owned())
    }

    pub(crate) fn check_all(_: u64, _: u64, _: usize, _: Option<About>) -> Result<bool, String> {
        Err(WHY.to_owned())
    }
}

#[cfg(feature = "mutations")]
mod with {
    use std::time::Instant;

    use mas_core::mutation;

    use crate::batch::{Until, run_seeds};
    use crate::situation::About;

    /// Whether there is one of that name.
    pub(crate) fn find(name: &str) -> Result<(), String> {
        let known = mutation::ALL.iter().any(|(_, known, _)| *known == name);
        if known {
            Ok(())
        } else {
            Err(format!("there is no planted bug '{name}': --list-mutations names them"))
        }
    }

    /// Plants one in this thread, or none.
    pub(crate) fn plant(name: Option<&str>) {
        let found = mutation::ALL.iter().find(|(_, known, _)| Some(*known) == name);
        mutation::plant(found.map(|(mutation, ..)| *mutation));
    }

    #[allow(clippy::unnecessary_wraps)] // without the feature there is nothing to list
    pub(crate) fn list() -> Result<(), String> {
        for (_, name, what) in mutation::ALL {
            println!("{name:<28} {what}");
        }
        Ok(())
    }

    /// What few seeds are about is looked for in seeds that are.
    fn situation_of(name: &str) -> Option<About> {
        match name {
            "MarkSkipped"
            | "PositionsNotCarried"
            | "OutboxCarried"
            | "BroughtForgotten"
            | "SourceNotAwaited"
            | "ReplayNotAwaited"
            | "MembersNotAwaited" => Some(About::Joining),
            "RemovalUnsettled" => Some(About::Leaving),
            _ => None,
        }
    }

    /// Checks all of them, each with at most `most` seeds from `first` on. Returns whether all were caught.
    #[allow(clippy::unnecessary_wraps)] // without the feature there is nothing to check
    pub(crate) fn check_all(
        first: u64,
        most: u64,
        jobs: usize,
        about: Option<About>,
    ) -> Result<bool, String> {
        let mut escaped = 0;
        println!("| planted bug | what is wrong | found by | seeds |");
        println!("| --- | --- | --- | --- |");
        let start = Instant::now();
        for (_, name, what) in mutation::ALL {
            let until = Until { seed: first + most, time: None, failures: 1 };
            // One seed after the other, so that the number of seeds means something.
            let sums =
                run_seeds(first, until, jobs, about.or_else(|| situation_of(name)), &|| plant(Some(name)));
            if let Some((seed, violation)) = sums.failed.iter().min_by_key(|(seed, _)| *seed) {
                println!("| {name} | {what} | {} | {} |", violation.checker, seed - first + 1);
            } else {
                escaped += 1;
                println!("| {name} | {what} | **nobody** | {} |", sums.runs);
            }
        }
        let all = mutation::ALL.len();
        println!(
            "\n{} of {all} planted bugs found, in {:.1} s",
            all - escaped,
            start.elapsed().as_secs_f64()
        );
        Ok(escaped == 0)
    }
}
