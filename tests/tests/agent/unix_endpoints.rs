//! Sockets of the node are not for those who write resources, unless the agent was told so.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use interceptor_tests::{Node, read_head};

/// A server on a socket of the node, which counts who comes.
fn serve(path: &Path) -> anyhow::Result<Arc<AtomicUsize>> {
    let listener = UnixListener::bind(path).with_context(|| format!("can't listen on {}", path.display()))?;
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nhi\n";
            drop(read_head(&mut stream).and_then(|_| stream.write_all(answer)));
        }
    });
    Ok(connections)
}

fn entry(name: &str, path: &Path) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         hosts: [{name}.example.com]\n  addresses: [203.0.113.77]\n  \
         ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  \
         endpoints: [{{address: 'unix://{}'}}]\n",
        path.display()
    )
}

#[test]
fn a_pod_reaches_the_sockets_that_the_agent_was_allowed_and_no_others() -> anyhow::Result<()> {
    let node = Node::new()?;
    let (private, shared) = (node.dir.join("private"), node.dir.join("shared"));
    fs::create_dir(&private)?;
    fs::create_dir(&shared)?;
    let runtime = serve(&private.join("docker.sock"))?;
    let sidecar = serve(&shared.join("a.sock"))?;
    symlink(private.join("docker.sock"), shared.join("link.sock"))?;
    for (name, path) in [
        ("runtime", private.join("docker.sock")),
        ("around", shared.join("../private/docker.sock")),
        ("link", shared.join("link.sock")),
        ("sidecar", shared.join("a.sock")),
    ] {
        node.apply(name, &entry(name, &path))?;
    }
    let pod = node.pod("web", "")?;
    pod.start()?;
    let _pause = pod.pause()?;
    let status = |name: &str| -> anyhow::Result<(u16, String)> {
        let url = format!("http://{name}.example.com/");
        let resolve = format!("{name}.example.com:80:203.0.113.77");
        let http = pod.curl(&["--resolve", &resolve, &url])?.http()?;
        Ok((http.status, http.body.clone()))
    };
    let nobody = (503, "no healthy upstream".to_owned());

    let agent = node.agent(&[])?;
    pod.wait_enrolled(&agent)?;
    for name in ["runtime", "around", "link", "sidecar"] {
        assert_eq!(status(name)?, nobody, "{name}: {}", agent.said());
        agent
            .wait_said(&format!("[EGR0124] ServiceEntry shop/{name}: spec.endpoints[0].address: unix://"))?;
    }
    agent.wait_said("--allow-unix-endpoints allows nothing")?;
    agent.stop()?;

    let agent = node.agent(&["--allow-unix-endpoints", &shared.display().to_string()])?;
    pod.wait_enrolled(&agent)?;
    assert_eq!(status("sidecar")?, (200, "hi\n".to_owned()), "{}", agent.said());
    assert_eq!((status("runtime")?, status("around")?), (nobody.clone(), nobody));
    let (code, body) = status("link")?;
    assert_eq!(code, 503);
    assert!(body.contains("a symbolic link is on the way to the socket"), "{body}");
    assert_eq!((runtime.load(Ordering::SeqCst), sidecar.load(Ordering::SeqCst)), (0, 1));
    agent.stop()
}
