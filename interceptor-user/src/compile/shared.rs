//! What is made in one compile, each once: ten thousand services say a few things.

use std::cell::RefCell;
use std::hash::Hash;
use std::sync::Arc;

use crate::hash::HashSet;

#[derive(Debug)]
pub(super) struct Shared<T>(RefCell<HashSet<Arc<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Eq + Hash> Shared<T> {
    pub(super) fn get(&self, value: T) -> Arc<T> {
        let mut known = self.0.borrow_mut();
        if let Some(known) = known.get(&value) {
            return Arc::clone(known);
        }
        let value = Arc::new(value);
        known.insert(Arc::clone(&value));
        value
    }
}
