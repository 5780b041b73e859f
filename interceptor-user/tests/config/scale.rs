//! Many resources compile in a time that grows with their number.

use std::time::Duration;

use interceptor_user::compile::{CompileSettings, compile};
use interceptor_user::resource::{World, parse};

fn world(count: usize) -> World {
    let mut world = World::default();
    for index in 0..count {
        let host = if index % 3 == 0 {
            format!("'*.h{index}.example.com'")
        } else {
            format!("h{index}.example.com")
        };
        let name = host.trim_matches('\'').trim_start_matches("*.").to_owned();
        let resolution = if index % 3 == 0 { "NONE" } else { "DNS" };
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: n{index}}}\nspec:\n  hosts: \
             [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 443, name: tls, protocol: TLS}}]\n  \
             resolution: {resolution}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
             n{index}}}\nspec:\n  hosts: [{host}]\n  http: [{{timeout: 3s, route: [{{destination: {{host: x.{name}, subset: \
             s}}}}]}}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: n{index}}}\nspec:\n  \
             host: {host}\n  subsets: [{{name: s}}]\n"
        );
        for resource in parse(&"f.yaml".into(), &yaml, &"default".into()).resources {
            world.resources.insert(resource);
        }
    }
    assert_eq!(world.resources.len(), 3 * count);
    world
}

/// How long this thread has run: others on the machine don't count (proc(5), schedstat).
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Ten times the resources may take thirty times as long, not a hundred.
#[test]
fn compiling_is_not_quadratic() {
    let time = |world: &World| {
        let start = on_cpu();
        let (snapshot, _) = compile(world, &CompileSettings::default());
        assert!(!snapshot.clusters.is_empty());
        on_cpu().saturating_sub(start)
    };
    let (few, many) = (world(500), world(5_000));
    let few = (0..3).map(|_| time(&few)).min().unwrap_or_default().max(Duration::from_millis(1));
    let many = (0..3).map(|_| time(&many)).min().unwrap_or_default();
    eprintln!("500 of each: {few:?}; 5,000 of each: {many:?}");
    assert!(many < few * 30, "500 of each: {few:?}; 5,000 of each: {many:?}");
}
