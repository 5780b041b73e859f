//! ISTIO_MUTUAL: a pod shows the identity of its own service account, or nothing is sent.

use std::fs;

use anyhow::Context;
use interceptor_tests::{Ca, Daemon, Node, World, python, unique};

const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/gateway";

#[test]
fn a_pod_shows_the_identity_of_its_own_service_account() -> anyhow::Result<()> {
    let world = World::shared()?;
    let mesh = Ca::new(&unique())?;
    let (node, address) = (Node::new()?, world.address());
    let gateway = mesh.mesh_identity("gateway", GATEWAY)?;
    // It answers with the name that its client has shown.
    let server = python(&format!(
        "import ssl\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
         context.load_cert_chain('{}', '{}')\ncontext.load_verify_locations('{}')\n\
         context.verify_mode = ssl.CERT_REQUIRED\ncontext.set_alpn_protocols(['istio-http/1.1'])\n\
         listener = socket.create_server(('{address}', 7000))\nprint('listening', flush=True)\n\
         while True:\n    \
         client = context.wrap_socket(listener.accept()[0], server_side=True)\n    \
         client.recv(10000)\n    name = client.getpeercert()['subjectAltName'][0][1].encode()\n    \
         client.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n' % len(name) + name)\n    \
         client.close()\n",
        gateway.certificate.display(),
        gateway.key.display(),
        mesh.root().display()
    ))?;
    let log = node.dir.join("gateway.log");
    let mut command = world.outside.command(&server[0]);
    let _daemon = Daemon::spawn(command.args(&server[1..]), &log)?.wait_ready("Python's server", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("listening"))
    })?;
    node.apply(
        "gateway",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: httpbin, namespace: shop}}\nspec:\n  \
             hosts: [httpbin.org]\n  ports: [{{number: 80, targetPort: 7000, name: http, protocol: HTTP}}]\n  \
             resolution: STATIC\n  endpoints: [{{address: {address}}}]\n---\n\
             apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: httpbin, namespace: shop}}\n\
             spec: {{host: httpbin.org, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}}}\n"
        ),
    )?;
    let identities = node.dir.join("identities");
    for account in ["cart", "web"] {
        let name = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let identity = mesh.mesh_identity(account, &name)?;
        let own = identities.join("shop").join(account);
        fs::create_dir_all(&own)?;
        for (file, from) in
            [("tls.crt", &identity.certificate), ("tls.key", &identity.key), ("ca.crt", &mesh.root())]
        {
            fs::copy(from, own.join(file)).with_context(|| format!("can't copy {}", from.display()))?;
        }
    }
    let identities = identities.to_str().context("not UTF-8")?;
    let agent = node.agent(&["--identity-dir", identities])?;
    let (cart, web) = (node.pod_of_account("cart", "cart")?, node.pod_of_account("web", "web")?);
    // What a pod says of itself gives it nobody's identity; nor does a name that leads elsewhere.
    let plain = node.pod("plain", "  labels: {app: cart}\n  annotations: {serviceAccountName: cart}\n")?;
    let leading = node.pod_of_account("leading", "web/../cart")?;
    let mut pauses = Vec::new();
    for pod in [&cart, &web, &plain, &leading] {
        pod.start()?;
        pauses.push(pod.pause()?);
        pod.wait_enrolled(&agent)?;
    }
    for (pod, account) in [(&cart, "cart"), (&web, "web")] {
        let http = pod.curl(&["http://httpbin.org/"])?.http()?;
        let name = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        assert_eq!((http.status, http.body), (200, name), "{}", agent.said());
    }
    for (pod, reason) in
        [(&plain, "/identities/shop/default"), (&leading, "ISTIO_MUTUAL needs an identity of the mesh")]
    {
        let http = pod.curl(&["http://httpbin.org/"])?.http()?;
        assert!(http.status == 503 && http.body.contains(reason), "{} {}", http.status, http.body);
    }
    assert!(!agent.said().contains("EGR0104"), "{}", agent.said());
    agent.stop()
}
