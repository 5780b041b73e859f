//! Maps many items on all cores.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::LazyLock;
use std::thread;

static CORES: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));

thread_local! {
    /// On a thread that maps its part of others' items: all cores have one already.
    static IS_PART: Cell<bool> = const { Cell::new(false) };
}

/// `map` of each item, in their order. Fewer items than `least` for a thread are not worth starting it.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], least: usize, map: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = (*CORES).min(items.len() / least.max(1)).max(1);
    if threads == 1 || IS_PART.get() {
        return items.iter().map(map).collect();
    }
    let map = &map;
    thread::scope(|scope| {
        let parts = items.chunks(items.len().div_ceil(threads));
        let mapped = |part: &[T]| {
            IS_PART.set(true);
            part.iter().map(map).collect::<Vec<R>>()
        };
        let running: Vec<_> = parts.map(|part| scope.spawn(move || mapped(part))).collect();
        let joined = running.into_iter().flat_map(|thread| match thread.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays() {
        for count in [0, 1, 63, 64, 129, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled = map(&items, 64, |item| map(&[*item, *item], 1, |item| item * 2)[1]);
            assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
