//! Envoy's MAGLEV: a table with a host for each remainder of a request's hash, filled by the hosts in
//! turn, each in its own order. More even than a ring, nearly as steady when hosts come and go.

use twox_hash::XxHash64;

use super::balance::SELECTIONS_MAX;

/// Hosts by their index; two bytes, because tables are large.
#[derive(Debug)]
pub(super) struct Maglev {
    slots: Box<[u16]>,
}

/// A host while it takes its slots.
struct Turn {
    host: u16,
    weight: u64,
    offset: u64,
    skip: u64,
    next: u64,
    /// It takes a slot once its weight times the round has come to this.
    target: u64,
}

impl Maglev {
    /// Hosts by the text of their address, and their weight; those beyond the first 65,535 get nothing.
    /// `size` must be a prime, which it is checked for when it is read.
    pub(super) fn new<'a>(hosts: impl Iterator<Item = (&'a str, u32)>, size: u32) -> Self {
        let slots_max = u64::from(size);
        let mut keyed: Vec<_> = (0..u16::MAX).zip(hosts).collect();
        keyed.sort_unstable_by_key(|(_, (address, _))| *address);
        let mut turns: Vec<Turn> = keyed
            .into_iter()
            .map(|(host, (address, weight))| Turn {
                host,
                weight: u64::from(weight),
                offset: XxHash64::oneshot(0, address.as_bytes()) % slots_max,
                skip: XxHash64::oneshot(1, address.as_bytes()) % (slots_max - 1).max(1) + 1,
                next: 0,
                target: 0,
            })
            .collect();
        let heaviest = turns.iter().map(|turn| turn.weight).max().unwrap_or(0);

        const FREE: u16 = u16::MAX;
        let mut slots = vec![FREE; size as usize];
        let mut left = if turns.is_empty() { 0 } else { slots.len() };
        for round in 1.. {
            if left == 0 {
                break;
            }
            for turn in &mut turns {
                if left == 0 {
                    break;
                }
                if round * turn.weight < turn.target {
                    continue;
                }
                turn.target += heaviest;
                let free = std::iter::repeat_with(|| turn.step(slots_max)).find(|slot| slots[*slot] == FREE);
                slots[free.expect("a prime's steps come to every slot, and one is free")] = turn.host;
                left -= 1;
            }
        }
        Self { slots: slots.into() }
    }

    /// The hosts by their index, first the one that `hash` belongs to, then those that take over.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let size = self.slots.len();
        let slot = move |hash: u64| usize::try_from(hash % size as u64).unwrap_or(0);
        // Envoy's other tries, spread over the table. Then whoever is in the table.
        let tries = (0..=SELECTIONS_MAX as u64).map(move |attempt| slot(hash ^ attempt.wrapping_neg()));
        let rest = (0..size).map(move |step| (slot(hash) + step) % size);
        tries.chain(rest).map(|slot| usize::from(self.slots[slot]))
    }
}

impl Turn {
    fn step(&mut self, size: u64) -> usize {
        let slot = (self.offset + self.skip * self.next) % size;
        self.next += 1;
        usize::try_from(slot).expect("a remainder of a usize")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Maglev;

    fn weighted(weights: &[u32]) -> Vec<(String, u32)> {
        weights.iter().zip(0..).map(|(weight, number)| (format!("10.0.0.{number}:80"), *weight)).collect()
    }

    fn table(hosts: &[(String, u32)], size: u32) -> Maglev {
        Maglev::new(hosts.iter().map(|(address, weight)| (&**address, *weight)), size)
    }

    fn slots(maglev: &Maglev, hosts: usize) -> Vec<usize> {
        (0..hosts)
            .map(|index| maglev.slots.iter().filter(|host| usize::from(**host) == index).count())
            .collect()
    }

    /// Of Envoy's maglev_lb_test.cc, `Basic`: ports 90 to 95 of 127.0.0.1 in a table of 7.
    #[test]
    fn slots_are_envoys() {
        let hosts: Vec<_> = (90..96).map(|port| (format!("127.0.0.1:{port}"), 1)).collect();
        let ports: Vec<_> = table(&hosts, 7).slots.iter().map(|host| 90 + host).collect();
        assert_eq!(ports, [92, 94, 90, 91, 95, 90, 93]);
    }

    #[test]
    fn slots_are_even_and_follow_weights() {
        let counts = slots(&table(&weighted(&[1; 7]), 65537), 7);
        assert!(counts.iter().all(|count| (9362..=9363).contains(count)), "{counts:?}");
        let counts = slots(&table(&weighted(&[1, 2, 5]), 65537), 3);
        let total: usize = counts.iter().sum();
        for (count, weight) in counts.iter().zip([1, 2, 5]) {
            assert!(count.abs_diff(total * weight / 8) <= total / 100, "{counts:?}");
        }
    }

    #[test]
    fn small_tables_are_filled() {
        for size in [1, 2, 3, 5] {
            assert_eq!(slots(&table(&weighted(&[1, 1, 1]), size), 3).iter().sum::<usize>(), size as usize);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// All slots of the host that goes change, and few others: the paper measures about a per cent
        /// at a hundred slots for each host.
        #[test]
        fn a_host_that_goes_disturbs_few_others(count in 2_usize..20, gone in any::<prop::sample::Index>()) {
            let hosts = weighted(&vec![1; count]);
            let gone = gone.index(count);
            let mut rest = hosts.clone();
            rest.remove(gone);
            let (before, after) = (table(&hosts, 10007), table(&rest, 10007));
            let moved = before.slots.iter().zip(&after.slots).filter(|(was, is)| {
                let was = usize::from(**was);
                was != gone && hosts[was] != rest[usize::from(**is)]
            });
            prop_assert!(moved.count() < 10007 / 10);
        }

        #[test]
        fn a_walk_comes_to_everybody(weights in prop::collection::vec(1_u32..5, 1..10), hash in any::<u64>()) {
            let maglev = table(&weighted(&weights), 251);
            let mut seen = vec![false; weights.len()];
            maglev.walk(hash).for_each(|host| seen[host] = true);
            prop_assert!(seen.iter().all(|seen| *seen));
        }
    }
}
