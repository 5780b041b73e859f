//! Outlier detection by the clock of the test.

use std::time::Duration;

use super::{Detector, Health, Outcome};
use crate::proxy::upstream::clock::Moment;
use crate::snapshot::OutlierDetection;
use Outcome::{Answered, Broken, Connected, ConnectedForGood, TimedOut};

fn at(seconds: u64) -> Moment {
    Moment(1 + seconds * 1000)
}

fn detector(settings: OutlierDetection) -> Detector {
    Detector::new(settings, at(0))
}

/// The number of the outcome that ejects.
fn ejecting(settings: OutlierDetection, outcomes: &[Outcome]) -> Option<usize> {
    let (detector, health) = (detector(settings), Health::default());
    outcomes.iter().position(|outcome| detector.count(&health, *outcome)).map(|index| index + 1)
}

#[test]
fn what_counts() {
    let default = OutlierDetection::default();
    let gateway = OutlierDetection { consecutive_5xx: 0, consecutive_gateway_errors: 3, ..default };
    let split =
        OutlierDetection { consecutive_local_origin_failures: Some(2), consecutive_5xx: 3, ..default };
    let three = OutlierDetection { consecutive_5xx: 3, ..default };
    for (settings, outcomes, expected) in [
        (default, &[Answered(500); 5][..], Some(5)),
        (default, &[Answered(500); 4], None),
        (three, &[Answered(500), Answered(503), Answered(599)], Some(3)),
        (three, &[Answered(500), Answered(500), Answered(200), Answered(500), Answered(500)], None),
        (three, &[Answered(500), Answered(500), Answered(404), Answered(500), Answered(500)], None),
        // What does not connect is 503, what takes too long 504.
        (three, &[Broken, Connected, TimedOut, Answered(500)], Some(4)),
        (three, &[Broken, Broken, ConnectedForGood, Broken, Broken], None),
        (three, &[Broken, Broken, Broken], Some(3)),
        (gateway, &[Answered(502), Answered(503), Answered(504)], Some(3)),
        (gateway, &[Answered(502), Answered(503), Answered(500), Answered(504)], None),
        (gateway, &[Answered(500); 20], None),
        (gateway, &[Broken, TimedOut, Broken], Some(3)),
        // Counted apart, either can eject.
        (split, &[Broken, Answered(500), Answered(500), TimedOut], Some(4)),
        (split, &[Broken, Connected, Broken, Connected], None),
        (split, &[Answered(500), Connected, Answered(500), Connected, Answered(500)], Some(5)),
        (OutlierDetection { consecutive_5xx: 0, ..default }, &[Answered(500); 100], None),
        (OutlierDetection { consecutive_5xx: 1, ..default }, &[Answered(500)], Some(1)),
    ] {
        assert_eq!(ejecting(settings, outcomes), expected, "{settings:?} {outcomes:?}");
    }
}

#[test]
fn so_many_and_no_more() {
    for (total, percent, expected) in
        [(1, 10, 1), (3, 10, 1), (10, 10, 1), (20, 10, 2), (10, 50, 5), (3, 66, 1), (3, 67, 2), (4, 100, 4)]
    {
        let settings = OutlierDetection { max_ejection_percent: percent, ..OutlierDetection::default() };
        let detector = detector(settings);
        let hosts: Vec<Health> = (0..total).map(|_| Health::default()).collect();
        let ejected = hosts.iter().filter(|host| detector.eject(host, hosts.iter(), at(1)).is_some()).count();
        assert_eq!(ejected, expected, "{percent} % of {total}");
        assert_eq!(hosts.iter().filter(|host| host.is_ejected()).count(), expected);
    }
}

#[test]
fn ejections_grow_longer_and_are_forgotten() {
    let detector = detector(OutlierDetection::default());
    let hosts = [Health::default(), Health::default()];
    let seconds = Duration::from_secs;
    let eject = |now| detector.eject(&hosts[0], hosts.iter(), at(now));
    let sweep = |now| {
        detector.sweep(hosts.iter(), at(now));
        hosts[0].is_ejected()
    };
    assert_eq!(eject(0), Some(seconds(30)));
    assert_eq!(eject(1), None, "it is ejected already");
    assert!(detector.has_ejected());
    assert!(sweep(10) && sweep(20) && sweep(29));
    assert!(!sweep(30));
    assert!(!detector.has_ejected());
    // An ejection is forgotten an interval after it was over, not right away.
    assert_eq!(eject(31), Some(seconds(60)));
    assert!(!sweep(91));
    assert_eq!(eject(92), Some(seconds(90)));
    // Over at 182, and nobody looked for two intervals.
    assert!(!sweep(202));
    assert_eq!(eject(203), Some(seconds(60)));
    // A long time passes.
    assert!(!sweep(1000));
    assert_eq!(eject(1001), Some(seconds(30)));
}

#[test]
fn no_ejection_is_longer_than_five_minutes() {
    for (base, expected) in [(30, 300), (299, 300), (400, 400)] {
        let base = Duration::from_secs(base);
        let detector = detector(OutlierDetection { base_ejection_time: base, ..OutlierDetection::default() });
        let hosts = [Health::default()];
        let mut now = 0;
        for _ in 0..50 {
            let lasting = detector.eject(&hosts[0], hosts.iter(), at(now)).expect("one may always be");
            assert!(lasting <= Duration::from_secs(expected));
            // Looked at exactly when it is over, nothing is forgotten.
            now += lasting.as_secs();
            detector.sweep(hosts.iter(), at(now));
        }
        assert_eq!(detector.eject(&hosts[0], hosts.iter(), at(now)), Some(Duration::from_secs(expected)));
    }
}

#[test]
fn a_host_that_comes_back_starts_anew() {
    let settings =
        OutlierDetection { consecutive_5xx: 3, consecutive_gateway_errors: 4, ..OutlierDetection::default() };
    let (detector, hosts) = (detector(settings), [Health::default()]);
    let count = |outcome| detector.count(&hosts[0], outcome);
    assert!(!count(Answered(503)) && !count(Answered(503)) && count(Answered(503)));
    assert!(detector.eject(&hosts[0], hosts.iter(), at(0)).is_some());
    // Answers to requests that were on their way.
    assert!(count(Answered(503)));
    detector.sweep(hosts.iter(), at(40));
    assert!(!count(Answered(503)) && !count(Answered(503)) && count(Answered(503)));
}

#[test]
fn panic_is_below_the_minimum() {
    for (percent, healthy, total, expected) in
        [(0, 0, 4, false), (50, 2, 4, false), (50, 1, 4, true), (50, 0, 4, true), (100, 3, 4, true)]
    {
        let settings = OutlierDetection { min_health_percent: percent, ..OutlierDetection::default() };
        assert_eq!(detector(settings).is_panicking(healthy, total), expected, "{percent} {healthy}/{total}");
    }
}
