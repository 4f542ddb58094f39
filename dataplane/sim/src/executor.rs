//! The event loop: one queue of (time, tie) in simulated microseconds, and the tasks that wait for it. Single-threaded and
//! deterministic: ties break by age, tasks run in the order in which they were woken.
//!
//! Every task belongs to a process. A process that was killed never runs again; one that is paused runs later.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::rng::Rng;

/// Simulated microseconds since the run began.
pub(crate) type Time = u64;

/// A millisecond.
pub(crate) const MS: Time = 1000;
/// A second.
pub(crate) const SEC: Time = 1_000_000;

/// One life of a process.
#[derive(Debug)]
pub(crate) struct Process {
    alive: Cell<bool>,
    paused_until: Cell<Time>,
}

impl Process {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { alive: Cell::new(true), paused_until: Cell::new(0) })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.get()
    }

    pub(crate) fn kill(&self) {
        self.alive.set(false);
    }

    pub(crate) fn paused_until(&self) -> Time {
        self.paused_until.get()
    }

    pub(crate) fn pause(&self, until: Time) {
        self.paused_until.set(until);
    }
}

type Tasked = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    future: Tasked,
    process: Rc<Process>,
    waker: Arc<TaskWaker>,
}

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.id);
        }
    }
}

enum What {
    Wake(Waker),
    Call(Box<dyn FnOnce()>),
}

struct Event {
    at: (Time, u64),
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

struct Inner {
    now: Cell<Time>,
    ties: Cell<u64>,
    queue: RefCell<BinaryHeap<Reverse<Event>>>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    stopped: Cell<bool>,
    events: Cell<u64>,
    rng: RefCell<Rng>,
}

/// A handle on the event loop.
#[derive(Clone)]
pub(crate) struct Sim(Rc<Inner>);

impl Sim {
    pub(crate) fn new(rng: Rng) -> Self {
        Self(Rc::new(Inner {
            now: Cell::new(0),
            ties: Cell::new(0),
            queue: RefCell::default(),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: Arc::default(),
            stopped: Cell::new(false),
            events: Cell::new(0),
            rng: RefCell::new(rng),
        }))
    }

    pub(crate) fn now(&self) -> Time {
        self.0.now.get()
    }

    /// Events handled.
    pub(crate) fn events(&self) -> u64 {
        self.0.events.get()
    }

    /// Draws from the run's random numbers.
    pub(crate) fn random<R>(&self, f: impl FnOnce(&mut Rng) -> R) -> R {
        f(&mut self.0.rng.borrow_mut())
    }

    /// A random number that is not 0.
    pub(crate) fn new_id(&self) -> u64 {
        self.random(Rng::next).max(1)
    }

    /// Ends the run after the event at hand.
    pub(crate) fn stop(&self) {
        self.0.stopped.set(true);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.stopped.get()
    }

    fn push(&self, at: Time, what: What) {
        let tie = self.0.ties.get();
        self.0.ties.set(tie + 1);
        self.0.queue.borrow_mut().push(Reverse(Event { at: (at.max(self.now()), tie), what }));
    }

    /// Calls `f` at a time.
    pub(crate) fn at(&self, at: Time, f: impl FnOnce() + 'static) {
        self.push(at, What::Call(Box::new(f)));
    }

    /// Starts a task of a process.
    pub(crate) fn spawn(&self, process: &Rc<Process>, future: impl Future<Output = ()> + 'static) {
        let id = self.0.next_task.get();
        self.0.next_task.set(id + 1);
        let waker =
            Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: Arc::clone(&self.0.ready) });
        let task = Task { future: Box::pin(future), process: Rc::clone(process), waker: Arc::clone(&waker) };
        self.0.tasks.borrow_mut().insert(id, task);
        waker.wake();
    }

    fn poll(&self, id: u64) {
        let Some(mut task) = self.0.tasks.borrow_mut().remove(&id) else { return };
        if !task.process.is_alive() {
            return;
        }
        task.waker.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.waker));
        let paused = task.process.paused_until();
        if paused > self.now() {
            self.push(paused, What::Wake(waker));
            self.0.tasks.borrow_mut().insert(id, task);
            return;
        }
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() && task.process.is_alive()
        {
            self.0.tasks.borrow_mut().insert(id, task);
        }
    }

    /// Runs until a time, or until it is stopped.
    pub(crate) fn run(&self, until: Time) {
        loop {
            loop {
                if self.is_stopped() {
                    return;
                }
                let next = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(id) = next else { break };
                self.poll(id);
            }
            let event = {
                let mut queue = self.0.queue.borrow_mut();
                if queue.peek().is_none_or(|Reverse(event)| event.at.0 > until) {
                    break;
                }
                queue.pop()
            };
            let Some(Reverse(event)) = event else { break };
            self.0.now.set(event.at.0);
            self.0.events.set(self.0.events.get() + 1);
            match event.what {
                What::Wake(waker) => waker.wake(),
                What::Call(f) => f(),
            }
        }
        self.0.now.set(until.max(self.now()));
    }

    /// Drops everything that waits: tasks and events hold what they need alive.
    pub(crate) fn dismantle(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        let queue = std::mem::take(&mut *self.0.queue.borrow_mut());
        drop((tasks, queue));
    }

    pub(crate) fn sleep(&self, time: Time) -> Sleep {
        Sleep { sim: self.clone(), at: self.now() + time, registered: false }
    }

    pub(crate) fn sleep_until(&self, at: Time) -> Sleep {
        Sleep { sim: self.clone(), at, registered: false }
    }
}

/// Waits for a time.
pub(crate) struct Sleep {
    sim: Sim,
    at: Time,
    registered: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.sim.now() >= self.at {
            return Poll::Ready(());
        }
        if !self.registered {
            self.registered = true;
            self.sim.push(self.at, What::Wake(cx.waker().clone()));
        }
        Poll::Pending
    }
}

/// A value that somebody will give, once.
pub(crate) struct Promise<T>(Rc<RefCell<Promised<T>>>);

struct Promised<T> {
    value: Option<T>,
    waker: Option<Waker>,
    given: bool,
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Promise<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Promised { value: None, waker: None, given: false })))
    }

    /// Gives it; a second time is ignored.
    pub(crate) fn give(&self, value: T) {
        let mut promised = self.0.borrow_mut();
        if !std::mem::replace(&mut promised.given, true) {
            promised.value = Some(value);
            if let Some(waker) = promised.waker.take() {
                waker.wake();
            }
        }
    }
}

impl<T> Future for Promise<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut promised = self.0.borrow_mut();
        if let Some(value) = promised.value.take() {
            return Poll::Ready(value);
        }
        promised.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Wakes one waiting task; remembered when none waits.
#[derive(Clone, Default)]
pub(crate) struct Notify(Rc<RefCell<(bool, Option<Waker>)>>);

impl Notify {
    pub(crate) fn notify(&self) {
        let mut state = self.0.borrow_mut();
        state.0 = true;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    /// Waits until notified, or for a time; says whether it was notified.
    pub(crate) fn wait_until(&self, sim: &Sim, at: Time) -> NotifiedOr {
        NotifiedOr { notify: self.clone(), sleep: sim.sleep_until(at) }
    }
}

/// See [`Notify::wait_until`].
pub(crate) struct NotifiedOr {
    notify: Notify,
    sleep: Sleep,
}

impl Future for NotifiedOr {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        {
            let mut state = self.notify.0.borrow_mut();
            if std::mem::take(&mut state.0) {
                return Poll::Ready(true);
            }
            state.1 = Some(cx.waker().clone());
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| false)
    }
}
