//! What all procedures have in common: steps in a row, each looked at again and again until it is done. Pure: the state is an
//! argument and a result, so whoever runs it keeps it where it outlives him, *before* he does what it announces.
//!
//! A step only looks: at what is there, never at what it remembers to have done. So each is safe to repeat, and a runner that died between
//! any two actions goes on from what it sees.

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not begun: something else has to end first.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Given up; what it had changed is as the last step left it, and harms nobody. It can be tried again.
    Failed,
    /// Taken back.
    RolledBack,
}

impl Phase {
    /// Nothing more happens by itself.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::RolledBack => true,
        }
    }
}

/// How much of a step is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// So much.
    pub done: u64,
    /// Of so much, as far as it is known now.
    pub total: u64,
    /// Of what: `bytes`, `effects`, `shards` ...
    pub unit: &'static str,
}

/// What is waited for that the operation itself cannot bring about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// PascalCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Obstacle {
    /// See the fields.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What one look at a step says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look again.
    Wait {
        /// How far it is.
        progress: Option<Progress>,
        /// In words.
        message: String,
    },
    /// The same, and something else has to happen first.
    Blocked(Obstacle),
    /// The step is done.
    Done,
    /// An earlier step has to be done again.
    Back {
        /// Its name.
        to: &'static str,
        /// Why.
        why: String,
    },
    /// It cannot succeed.
    Fail(String),
}

impl Verdict {
    /// Look again; nothing to count.
    pub fn wait(message: impl Into<String>) -> Self {
        Self::Wait { progress: None, message: message.into() }
    }

    /// Something else has to happen first.
    pub fn blocked(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Blocked(Obstacle::new(reason, message))
    }
}

/// What one look brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look<A> {
    /// How the step stands.
    pub verdict: Verdict,
    /// What is to be done now, in order.
    pub actions: Vec<A>,
}

impl<A> From<Verdict> for Look<A> {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, actions: Vec::new() }
    }
}

/// One step of a procedure over the world `O`.
#[derive(Debug)]
pub struct Step<O, A> {
    /// PascalCase.
    pub name: &'static str,
    /// For so long, milliseconds, it may neither move nor be blocked; then the operation fails.
    pub patience_ms: u64,
    /// Looks.
    pub look: fn(&O) -> Look<A>,
}

/// One step's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepState {
    /// Unix milliseconds.
    pub started_at: Option<u64>,
    /// Unix milliseconds.
    pub finished_at: Option<u64>,
    /// The last progress seen.
    pub progress: Option<Progress>,
    /// The last words.
    pub message: String,
    /// How often it was begun anew.
    pub repeats: u32,
}

/// The state of an operation. All of it is kept by whoever runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// How far it is.
    pub phase: Phase,
    /// The step it is at.
    pub step: usize,
    /// One a step.
    pub steps: Vec<StepState>,
    /// What it waits for, and since when (Unix milliseconds).
    pub blocked: Option<(Obstacle, u64)>,
    /// When it moved last, Unix milliseconds.
    pub moved_at: u64,
    /// The last words of the whole.
    pub message: String,
}

/// Most steps that one call goes through: more than any procedure has.
const STEPS_MAX: usize = 32;

impl Operation {
    /// Looks at the step that it is at, and at the next ones as long as they are done. What is returned is to be done once the new
    /// state is kept. `now_ms`: Unix milliseconds.
    pub fn advance<O, A>(&mut self, steps: &[Step<O, A>], observed: &O, now_ms: u64) -> Vec<A> {
        if self.phase.is_final() {
            return Vec::new();
        }
        self.steps.resize_with(steps.len(), StepState::default);
        if self.phase == Phase::Pending {
            self.phase = Phase::Running;
            self.moved_at = now_ms;
        }
        let mut actions = Vec::new();
        for _ in 0..STEPS_MAX {
            let Some(step) = steps.get(self.step) else {
                self.end(Phase::Succeeded, String::new());
                return actions;
            };
            self.steps[self.step].started_at.get_or_insert(now_ms);
            let look = (step.look)(observed);
            actions.extend(look.actions);
            match look.verdict {
                Verdict::Done => {
                    let state = &mut self.steps[self.step];
                    state.finished_at = Some(now_ms);
                    state.message.clear();
                    state.progress = state.progress.map(|p| Progress { done: p.total, ..p });
                    self.step += 1;
                    self.moved(now_ms);
                    // What follows is looked at with fresh eyes once something was done.
                    if !actions.is_empty() {
                        return actions;
                    }
                }
                Verdict::Wait { progress, message } => {
                    let state = &mut self.steps[self.step];
                    if state.progress != progress || !actions.is_empty() {
                        state.progress = progress;
                        self.moved_at = now_ms;
                    }
                    let state = &mut self.steps[self.step];
                    state.message = message;
                    self.blocked = None;
                    if now_ms.saturating_sub(self.moved_at) > step.patience_ms {
                        let words = format!(
                            "{} has not moved for {} s: {}",
                            step.name,
                            step.patience_ms / 1000,
                            self.steps[self.step].message
                        );
                        self.end(Phase::Failed, words);
                    }
                    return actions;
                }
                Verdict::Blocked(obstacle) => {
                    let since = self.blocked.take().filter(|(old, _)| old.reason == obstacle.reason);
                    self.steps[self.step].message.clone_from(&obstacle.message);
                    self.blocked = Some((obstacle, since.map_or(now_ms, |(_, since)| since)));
                    self.moved_at = now_ms;
                    return actions;
                }
                Verdict::Back { to, why } => {
                    self.back(steps, to, &why, now_ms);
                    return actions;
                }
                Verdict::Fail(why) => {
                    self.end(Phase::Failed, why);
                    return actions;
                }
            }
        }
        actions
    }

    fn back<O, A>(&mut self, steps: &[Step<O, A>], to: &'static str, why: &str, now_ms: u64) {
        let to = steps.iter().position(|step| step.name == to).unwrap_or_default().min(self.step);
        for state in &mut self.steps[to..=self.step] {
            *state = StepState { repeats: state.repeats + 1, ..StepState::default() };
        }
        self.steps[to].message = format!("again: {why}");
        why.clone_into(&mut self.message);
        self.step = to;
        self.moved(now_ms);
    }

    fn moved(&mut self, now_ms: u64) {
        self.blocked = None;
        self.moved_at = now_ms;
    }

    /// Ends it.
    pub fn end(&mut self, phase: Phase, message: String) {
        self.phase = phase;
        self.message = message;
        self.blocked = None;
    }

    /// Begins anew, from the first step: what is there already is found there.
    pub fn retry(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type World = Vec<Look<&'static str>>;

    fn look(world: &World, at: usize) -> Look<&'static str> {
        world[at].clone()
    }

    const STEPS: [Step<World, &str>; 3] = [
        Step { name: "One", patience_ms: 100, look: |w| look(w, 0) },
        Step { name: "Two", patience_ms: 100, look: |w| look(w, 1) },
        Step { name: "Three", patience_ms: 100, look: |w| look(w, 2) },
    ];

    fn world(verdicts: [Verdict; 3]) -> World {
        verdicts.into_iter().map(Into::into).collect()
    }

    fn acting(verdict: Verdict, action: &'static str) -> Look<&'static str> {
        Look { verdict, actions: vec![action] }
    }

    #[test]
    fn steps_follow_each_other_until_one_waits() {
        let mut op = Operation::default();
        let all = world([Verdict::Done, Verdict::wait("for two"), Verdict::Done]);
        assert!(op.advance(&STEPS, &all, 10).is_empty());
        assert_eq!((op.phase, op.step, op.steps[1].message.as_str()), (Phase::Running, 1, "for two"));
        assert_eq!((op.steps[0].started_at, op.steps[0].finished_at), (Some(10), Some(10)));
        op.advance(&STEPS, &world([Verdict::Done, Verdict::Done, Verdict::Done]), 20);
        assert_eq!((op.phase, op.steps[2].finished_at), (Phase::Succeeded, Some(20)));
        assert!(op.advance(&STEPS, &all, 30).is_empty(), "what is over is over");
    }

    #[test]
    fn after_an_action_the_next_step_waits_for_a_fresh_look() {
        let mut op = Operation::default();
        let all = vec![acting(Verdict::Done, "a"), acting(Verdict::Done, "b"), Verdict::Done.into()];
        assert_eq!(op.advance(&STEPS, &all, 10), ["a"]);
        assert_eq!(op.step, 1);
        assert_eq!(op.advance(&STEPS, &all, 20), ["b"]);
    }

    #[test]
    fn what_does_not_move_fails_and_what_is_blocked_waits() {
        let mut op = Operation::default();
        let stuck = world([Verdict::wait("for ever"), Verdict::Done, Verdict::Done]);
        let blocked = world([Verdict::blocked("Cut", "a is cut off"), Verdict::Done, Verdict::Done]);
        op.advance(&STEPS, &stuck, 0);
        op.advance(&STEPS, &blocked, 50);
        op.advance(&STEPS, &blocked, 5000);
        assert_eq!(op.blocked.as_ref().map(|(o, since)| (o.reason, *since)), Some(("Cut", 50)));
        op.advance(&STEPS, &stuck, 5050);
        assert_eq!((op.phase, op.blocked.clone()), (Phase::Running, None));
        op.advance(&STEPS, &stuck, 5200);
        assert_eq!(op.phase, Phase::Failed);
        assert!(op.message.contains("for ever"), "{}", op.message);
        op.retry();
        op.advance(&STEPS, &stuck, 9000);
        assert_eq!(op.phase, Phase::Running);
    }

    #[test]
    fn a_step_back_begins_those_steps_anew() {
        let mut op = Operation::default();
        let why = Verdict::Back { to: "One", why: "void".into() };
        op.advance(&STEPS, &world([Verdict::Done, Verdict::Done, why]), 10);
        assert_eq!((op.step, op.steps[0].repeats, op.steps[2].repeats), (0, 1, 1));
        assert_eq!((op.steps[0].started_at, op.steps[0].message.as_str()), (None, "again: void"));
    }
}
