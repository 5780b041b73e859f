use arc_swap::ArcSwap;
use interceptor_user::dns::Resolver;
use interceptor_user::proxy::{
    active::Active,
    downstream::Downstream,
    http::{self, Version},
    worker::Worker,
};
use interceptor_user::snapshot::*;
use interceptor_user::telemetry::{AccessLog, AccessLogTarget};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
struct Counting;
static ALLOCS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        ALLOCS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(l.size() as u64, Ordering::Relaxed);
        unsafe { System.alloc(l) }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        unsafe { System.dealloc(p, l) }
    }
    unsafe fn realloc(&self, p: *mut u8, l: Layout, n: usize) -> *mut u8 {
        ALLOCS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(p, l, n) }
    }
}
#[global_allocator]
static A: Counting = Counting;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args[1].as_str() {
        "proxy" => {
            let upstream: SocketAddr = args[3].parse().unwrap();
            let mut s = Snapshot::empty(OutboundTrafficPolicy::AllowAny);
            let cluster = Arc::new(Cluster {
                name: ClusterName::outbound(80, "", "h"),
                host: "h".into(),
                port: 80,
                discovery: Discovery::Static(vec![Endpoint { address: upstream, weight: 1 }]),
                protocol: UpstreamProtocol::Http1,
                tls: None,
                load_balancer: LoadBalancer::LeastRequest,
                connect_timeout: std::time::Duration::from_secs(10),
                tcp_idle_timeout: std::time::Duration::from_secs(3600),
                http_idle_timeout: std::time::Duration::from_secs(3600),
                max_requests_per_connection: None,
            });
            let fwd = Forward {
                clusters: vec![WeightedCluster {
                    cluster: ClusterRef { name: cluster.name.clone(), cluster: Some(cluster.clone()) },
                    weight: 1,
                }],
                timeout: None,
                retries: Some(RetryPolicy {
                    attempts: 2,
                    retry_on: RetryOn {
                        connect_failure: true,
                        status_codes: vec![503],
                        ..Default::default()
                    },
                    per_try_timeout: None,
                    base_interval: std::time::Duration::from_millis(25),
                }),
                decorator_operation: "h:80/*".into(),
            };
            let mut t = RouteTable::new("80".into(), OutboundTrafficPolicy::AllowAny);
            t.hosts.insert(
                "h",
                Arc::new(VirtualHost {
                    name: "h:80".into(),
                    routes: vec![Route {
                        name: "default".into(),
                        matches: vec![],
                        action: RouteAction::Forward(Arc::new(fwd)),
                    }],
                }),
            );
            let mut l = Listener::new("0.0.0.0_80".into(), OutboundTrafficPolicy::AllowAny);
            l.http = Some(Arc::new(t));
            s.by_port.insert(80, Arc::new(l));
            s.clusters.insert(cluster.name.clone(), cluster);
            let r = Resolver::start(Default::default()).unwrap();
            let active = Arc::new(ArcSwap::from_pointee(Active::build(Arc::new(s), None, &r)));
            let listener = TcpListener::bind(&args[2]).unwrap();
            listener.set_nonblocking(true).unwrap();
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            let log = match args.get(4) {
                Some(f) => AccessLog::open(AccessLogTarget::File(f.into()), AccessLogEncoding::Text).unwrap(),
                None => AccessLog::open(AccessLogTarget::Off, AccessLogEncoding::Text).unwrap(),
            };
            local.block_on(&rt, async move {
                let w = Worker::new(active, log);
                let l = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::task::spawn_local(async {
                    let mut last = 0;
                    loop {
                        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                        let n = ALLOCS.load(Ordering::Relaxed);
                        eprintln!("allocs {} bytes {}", n - last, BYTES.load(Ordering::Relaxed));
                        last = n;
                    }
                });
                loop {
                    let (st, peer) = l.accept().await.unwrap();
                    let w = w.clone();
                    tokio::task::spawn_local(async move {
                        http::serve(
                            &w,
                            st,
                            Downstream::new(peer, "192.0.2.1:80".parse().unwrap()),
                            Version::Http1,
                        )
                        .await
                    });
                }
            });
        }
        "upstream" => {
            let l = TcpListener::bind(&args[2]).unwrap();
            for s in l.incoming() {
                let mut s = s.unwrap();
                s.set_nodelay(true).unwrap();
                std::thread::spawn(move || {
                    let mut b = [0; 65536];
                    while let Ok(n) = s.read(&mut b) {
                        if n == 0 {
                            return;
                        }
                        s.write_all(b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nHello, world!").unwrap();
                    }
                });
            }
        }
        _ => {
            let n: usize = args[3].parse().unwrap();
            let threads: usize = args[4].parse().unwrap();
            let t0 = std::time::Instant::now();
            let hs: Vec<_> = (0..threads)
                .map(|_| {
                    let a = args[2].clone();
                    std::thread::spawn(move || {
                        let mut s = TcpStream::connect(a).unwrap();
                        s.set_nodelay(true).unwrap();
                        let mut b = [0; 65536];
                        for _ in 0..n {
                            s.write_all(
                                b"GET /get HTTP/1.1\r\nhost: h\r\nuser-agent: curl/8\r\naccept: */*\r\n\r\n",
                            )
                            .unwrap();
                            let mut got = 0;
                            loop {
                                got += s.read(&mut b[got..]).unwrap();
                                if b[..got].ends_with(b"world!") {
                                    break;
                                }
                            }
                        }
                    })
                })
                .collect();
            for h in hs {
                h.join().unwrap();
            }
            let e = t0.elapsed();
            println!("{} req {:?} {:.0}/s", n * threads, e, (n * threads) as f64 / e.as_secs_f64());
        }
    }
}
