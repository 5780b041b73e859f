//! Texts that stand in many places, such as a service's host in its entry, its routes and its rule, are kept once.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

/// As many are remembered on a thread; what belongs together stands together mostly.
const REMEMBERED_MAX: usize = 4096;
/// Longer ones are no names.
const LENGTH_MAX: usize = 253;

thread_local! {
    static REMEMBERED: RefCell<HashSet<Arc<str>>> = RefCell::default();
}

/// `text`, the same [`Arc`] as before if it was seen a short time ago.
pub(super) fn intern(text: &str) -> Arc<str> {
    if text.len() > LENGTH_MAX {
        return text.into();
    }
    REMEMBERED.with_borrow_mut(|remembered| {
        if let Some(known) = remembered.get(text) {
            return Arc::clone(known);
        }
        if remembered.len() == REMEMBERED_MAX {
            remembered.clear();
        }
        let new: Arc<str> = text.into();
        remembered.insert(Arc::clone(&new));
        new
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_memory_is_bounded() {
        let first = intern("a.example.com");
        assert!(Arc::ptr_eq(&first, &intern("a.example.com")));
        for number in 0..2 * REMEMBERED_MAX {
            assert_eq!(*intern(&number.to_string()), number.to_string());
        }
        assert!(REMEMBERED.with_borrow(HashSet::len) <= REMEMBERED_MAX);
        let long = "x".repeat(LENGTH_MAX + 1);
        assert!(!Arc::ptr_eq(&intern(&long), &intern(&long)));
    }
}
