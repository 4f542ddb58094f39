//! A cell for state that only the server's one thread touches.

use std::cell::RefCell;

/// See the module. Borrows are checked: a callback that comes while the state is in use is told so.
pub(crate) struct Single<T>(RefCell<Option<T>>);

// SAFETY: the server calls into this module from one thread only (see `boundary`); statics of this type are not reachable
// from anywhere else. Unit tests do not use them.
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    /// Empty.
    pub(crate) const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Fills it, once, at load.
    pub(crate) fn set(&self, value: T) {
        *self.0.borrow_mut() = Some(value);
    }

    /// Calls `f` with the state; `None` before it is set, or when it is in use further up the stack.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.0.try_borrow_mut().ok()?.as_mut().map(f)
    }
}
