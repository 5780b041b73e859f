//! Whose name is asked for next, where many ask: nobody takes all that there is, and who asks for one name does not wait behind
//! another's thousand. No clock and no IO.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Asker;

/// Names that wait to be asked for, or are being asked for.
///
/// Of either an asker may have no more than are left for others: half of all when it is alone, a third beside another one that
/// takes what it gets, and so on.
#[derive(Debug)]
pub(super) struct Turns {
    waiting_max: usize,
    running_max: usize,
    /// Names that wait, by who asked for them; those of nobody are not there.
    waiting: HashMap<Asker, VecDeque<Arc<str>>>,
    /// Those who have names waiting, in the order of their turns.
    order: VecDeque<Asker>,
    all_waiting: usize,
    running: HashMap<Asker, usize>,
    all_running: usize,
}

impl Turns {
    pub(super) fn new(waiting_max: usize, running_max: usize) -> Self {
        Self {
            waiting_max,
            running_max,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            all_waiting: 0,
            running: HashMap::new(),
            all_running: 0,
        }
    }

    /// False when so many of this asker's wait that it has its part.
    pub(super) fn wait(&mut self, asker: Asker, name: Arc<str>) -> bool {
        let own = self.waiting.get(&asker).map_or(0, VecDeque::len);
        if own >= self.waiting_max.saturating_sub(self.all_waiting) {
            return false;
        }
        if own == 0 {
            self.order.push_back(asker);
        }
        self.waiting.entry(asker).or_default().push_back(name);
        self.all_waiting += 1;
        true
    }

    /// A name that can be asked for now, and counts for whoever waited for it until [`Turns::end`].
    pub(super) fn begin(&mut self) -> Option<(Asker, Arc<str>)> {
        let free = self.running_max.saturating_sub(self.all_running);
        let may_run = |asker: &Asker| self.running.get(asker).is_none_or(|running| *running < free);
        let turn = self.order.iter().position(may_run).filter(|_| free > 0)?;
        let asker = self.order.remove(turn)?;
        let names = self.waiting.get_mut(&asker)?;
        let name = names.pop_front()?;
        if names.is_empty() {
            self.waiting.remove(&asker);
        } else {
            self.order.push_back(asker);
        }
        self.all_waiting -= 1;
        self.all_running += 1;
        *self.running.entry(asker).or_default() += 1;
        Some((asker, name))
    }

    pub(super) fn end(&mut self, asker: Asker) {
        let Some(running) = self.running.get_mut(&asker) else { return };
        *running -= 1;
        if *running == 0 {
            self.running.remove(&asker);
        }
        self.all_running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{Asker, Turns};

    fn asker(number: u64) -> Asker {
        Asker { workload: number, client: None }
    }

    /// How many of so many names are let wait.
    fn let_wait(turns: &mut Turns, number: u64, names: usize) -> usize {
        (0..names).filter(|name| turns.wait(asker(number), format!("{number}-{name}").into())).count()
    }

    fn begun(turns: &mut Turns) -> Vec<String> {
        std::iter::from_fn(|| turns.begin()).map(|(_, name)| name.to_string()).collect()
    }

    #[test]
    fn nobody_waits_for_everything() {
        let mut turns = Turns::new(12, 0);
        assert_eq!(let_wait(&mut turns, 1, 20), 6);
        assert_eq!(let_wait(&mut turns, 2, 20), 3);
        assert_eq!(let_wait(&mut turns, 3, 1), 1);
        assert_eq!(begun(&mut turns), [""; 0], "nothing may run");
    }

    #[test]
    fn turns_go_round_and_leave_something_for_others() {
        let mut turns = Turns::new(100, 6);
        let_wait(&mut turns, 1, 10);
        assert_eq!(begun(&mut turns), ["1-0", "1-1", "1-2"]);
        let_wait(&mut turns, 2, 10);
        assert_eq!(begun(&mut turns), ["2-0", "2-1"]);
        let_wait(&mut turns, 3, 1);
        assert_eq!(begun(&mut turns), ["3-0"]);
        turns.end(asker(3));
        assert_eq!(begun(&mut turns), [""; 0], "the last one is kept for others");
        turns.end(asker(1));
        turns.end(asker(1));
        assert_eq!(begun(&mut turns), ["1-3", "1-4"][..1], "who has the most goes last");
    }

    #[test]
    fn nothing_is_left_of_what_is_over() {
        let mut turns = Turns::new(100, 2);
        for number in 0..10 {
            let_wait(&mut turns, number, 1);
        }
        let mut names = 0;
        while let Some((asker, _)) = turns.begin() {
            turns.end(asker);
            names += 1;
        }
        assert_eq!((names, turns.waiting.len(), turns.order.len(), turns.running.len()), (10, 0, 0, 0));
        assert_eq!((turns.all_waiting, turns.all_running), (0, 0));
    }
}
