//! Planted bugs: proof that the simulator's checkers find what they are there for. Test-only: without the feature
//! `mutations`, which nothing but the simulator's own check turns on, `mutation!(Name)` is the constant `false`.

/// Whether this planted bug is on in this thread.
#[cfg(feature = "mutations")]
macro_rules! mutation {
    ($name:ident) => {
        $crate::mutation::is_planted($crate::mutation::Mutation::$name)
    };
}

/// Whether this planted bug is on: never.
#[cfg(not(feature = "mutations"))]
macro_rules! mutation {
    ($name:ident) => {
        false
    };
}

#[cfg(feature = "mutations")]
pub use self::planted::*;

#[cfg(feature = "mutations")]
mod planted {
    use std::cell::Cell;

    macro_rules! mutations {
        ($($name:ident: $what:literal,)*) => {
            /// The bugs that can be planted, each in the place that its name says.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Mutation {
                $(#[doc = $what] $name,)*
            }

            /// All of them, with what is wrong.
            pub const ALL: &[(Mutation, &str, &str)] = &[$((Mutation::$name, stringify!($name), $what),)*];
        };
    }

    mutations! {
        WrongTieBreak: "of two puts with equal clocks the one that arrives last wins",
    }

    thread_local! {
        static PLANTED: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Turns one on in this thread, or all off.
    pub fn plant(mutation: Option<Mutation>) {
        PLANTED.set(mutation);
    }

    /// Whether this one is on.
    pub fn is_planted(mutation: Mutation) -> bool {
        PLANTED.get() == Some(mutation)
    }
}
