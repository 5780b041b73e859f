//! Envoy's RING_HASH: hosts have many places on a ring, and a request goes to the host of the next one.
//! A host that goes takes along its own requests only.

use twox_hash::XxHash64;

/// No ring is larger, whatever weights and sizes ask for: 12 MB. Envoy stops at 8 M entries.
const ENTRIES_MAX: u32 = 1024 * 1024;

/// Places by their hash, and whose they are.
#[derive(Debug)]
pub(super) struct Ring {
    hashes: Box<[u64]>,
    hosts: Box<[u32]>,
}

impl Ring {
    /// Hosts by the text of their address, and their weight.
    pub(super) fn new<'a>(hosts: impl Iterator<Item = (&'a str, u32)> + Clone, minimum_size: u32) -> Self {
        let weights = hosts.clone().map(|(_, weight)| f64::from(weight));
        let total: f64 = weights.clone().sum();
        // The lightest host has a whole number of places, as long as the ring does not grow too large.
        let lightest = weights.fold(total, f64::min) / total;
        let wanted = (lightest * f64::from(minimum_size)).ceil() / lightest;
        let size = wanted.min(f64::from(ENTRIES_MAX));

        let mut entries: Vec<(u64, u32)> = Vec::new();
        let mut key = String::new();
        let (mut placed, mut target) = (0.0, 0.0);
        for (index, (address, weight)) in (0..).zip(hosts) {
            target += size * f64::from(weight) / total;
            key.clear();
            key.push_str(address);
            key.push('_');
            let stem = key.len();
            for number in 0_u32.. {
                if placed >= target {
                    break;
                }
                key.truncate(stem);
                key.push_str(&number.to_string());
                entries.push((XxHash64::oneshot(0, key.as_bytes()), index));
                placed += 1.0;
            }
        }
        entries.sort_unstable();
        let (hashes, hosts): (Vec<u64>, Vec<u32>) = entries.into_iter().unzip();
        Self { hashes: hashes.into(), hosts: hosts.into() }
    }

    /// The hosts by their index, first the one that `hash` belongs to, then those that take over.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.hashes.partition_point(|place| *place < hash);
        let (before, from) = self.hosts.split_at(first);
        from.iter().chain(before).map(|host| *host as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ring;

    fn addresses(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("10.0.{}.{}:80", number / 256, number % 256)).collect()
    }

    fn ring(hosts: &[(String, u32)], minimum_size: u32) -> Ring {
        Ring::new(hosts.iter().map(|(address, weight)| (&**address, *weight)), minimum_size)
    }

    fn weighted(weights: &[u32]) -> Vec<(String, u32)> {
        addresses(weights.len()).into_iter().zip(weights.iter().copied()).collect()
    }

    fn places(ring: &Ring, hosts: usize) -> Vec<usize> {
        (0..hosts).map(|index| ring.hosts.iter().filter(|host| **host as usize == index).count()).collect()
    }

    fn spread(number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn sizes_are_envoys() {
        for (weights, minimum_size, expected) in [
            (&[1, 1, 1, 1][..], 1024, vec![256; 4]),
            // Whole numbers for each: more than asked for.
            (&[1, 1, 1], 1024, vec![342; 3]),
            (&[1, 1, 1, 1], 3, vec![1; 4]),
            (&[1, 2, 1], 8, vec![2, 4, 2]),
            (&[7], 5, vec![5]),
        ] {
            let hosts = weighted(weights);
            assert_eq!(places(&ring(&hosts, minimum_size), hosts.len()), expected, "{weights:?}");
        }
    }

    /// Of Envoy's ring_hash_lb_test.cc, `Basic`: ports 90 to 95 of 127.0.0.1 on a ring of 12.
    #[test]
    fn places_are_envoys() {
        let hosts: Vec<_> = (90..96).map(|port| (format!("127.0.0.1:{port}"), 1)).collect();
        let ring = ring(&hosts, 12);
        let places = [
            (94, 833_437_586_790_550_860),
            (92, 928_266_305_478_181_108),
            (90, 1_033_482_794_131_418_490),
            (95, 3_551_244_743_356_806_947),
            (93, 3_851_675_632_748_031_481),
            (91, 5_583_722_120_771_150_861),
            (91, 6_311_230_543_546_372_928),
            (93, 7_700_377_290_971_790_572),
            (95, 13_144_177_310_400_110_813),
            (92, 13_444_792_449_719_432_967),
            (94, 15_516_499_411_664_133_160),
            (90, 16_117_243_373_044_804_889_u64),
        ];
        let built = ring.hosts.iter().map(|host| 90 + host).zip(ring.hashes.iter().copied());
        assert_eq!(built.collect::<Vec<_>>(), places);
        for (hash, port) in [
            (0, 94),
            (u64::MAX, 94),
            (3_551_244_743_356_806_947, 95),
            (3_551_244_743_356_806_948, 93),
            (16_117_243_373_044_804_880, 90),
        ] {
            assert_eq!(ring.walk(hash).next(), Some(port - 90), "{hash}");
        }
    }

    #[test]
    fn a_ring_is_bounded() {
        let ring = ring(&weighted(&[1, u32::MAX]), u32::MAX);
        assert_eq!(ring.hashes.len(), super::ENTRIES_MAX as usize);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Equal numbers of places on both rings.
        #[test]
        fn a_host_that_goes_takes_its_own_requests_only(count in 2_usize..20, gone in any::<prop::sample::Index>()) {
            let places = 100;
            let size = |count: usize| u32::try_from(count * places).unwrap();
            let hosts = weighted(&vec![1; count]);
            let gone = gone.index(count);
            let mut rest = hosts.clone();
            rest.remove(gone);
            let (before, after) = (ring(&hosts, size(count)), ring(&rest, size(count - 1)));
            for number in 0..500 {
                let hash = spread(number);
                let was = before.walk(hash).next().unwrap();
                let is = after.walk(hash).next().unwrap();
                if was == gone {
                    // Who takes over is who is next on the ring.
                    let next = before.walk(hash).find(|host| *host != gone).unwrap();
                    prop_assert_eq!(&hosts[next], &rest[is]);
                } else {
                    prop_assert_eq!(&hosts[was], &rest[is]);
                }
            }
        }

        #[test]
        fn a_walk_comes_to_everybody(weights in prop::collection::vec(1_u32..5, 1..10), hash in any::<u64>()) {
            let ring = ring(&weighted(&weights), 64);
            let mut seen = vec![false; weights.len()];
            ring.walk(hash).for_each(|host| seen[host] = true);
            prop_assert!(seen.iter().all(|seen| *seen));
        }

        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1_u32..8, 2..8)) {
            let ring = ring(&weighted(&weights), 16384);
            let total: u32 = weights.iter().sum();
            let requests = 20_000;
            let mut counts = vec![0_u32; weights.len()];
            for number in 0..requests {
                counts[ring.walk(spread(number)).next().unwrap()] += 1;
            }
            for (weight, count) in weights.iter().zip(counts) {
                let share = f64::from(count) / requests as f64 * f64::from(total) / f64::from(*weight);
                prop_assert!((0.6..1.5).contains(&share), "weight {weight} of {weights:?} has {share} of its share");
            }
        }
    }
}
