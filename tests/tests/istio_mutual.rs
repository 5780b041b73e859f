//! ISTIO_MUTUAL with an identity from files: what Istio's recipe for the egress gateway needs at the application's side. The
//! gateway is an nginx that takes clients with a certificate of the mesh only.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use interceptor_tests::{
    Ca, Daemon, Dir, Finished, Identity, World, eventually, python, seeds, unique, wait_for,
};

const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/istio-egressgateway-service-account";
const OURS: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// Gateways at ports of one address, one for each certificate.
struct Gateways {
    _daemon: Daemon,
    _dir: Dir,
    address: Ipv4Addr,
}

impl Gateways {
    /// The first is on port 80, the next on 81 …
    fn start(world: &World, mesh: &Ca, certificates: &[Identity]) -> anyhow::Result<Self> {
        let (dir, address) = (Dir::new()?, world.address());
        let (path, root) = (dir.path().display(), mesh.root());
        let servers: String = (80..)
            .zip(certificates)
            .map(|(port, Identity { certificate, key }): (u16, _)| {
                format!(
                    "server {{ listen {address}:{port} ssl http2; ssl_certificate {}; ssl_certificate_key {};\n\
                     ssl_verify_client on; ssl_client_certificate {}; keepalive_timeout 0; default_type text/plain;\n\
                     location / {{ return 200 \"$ssl_client_verify $ssl_server_name $ssl_alpn_protocol $http_host \
                     $ssl_client_serial\\n\"; }} }}\n",
                    certificate.display(),
                    key.display(),
                    root.display()
                )
            })
            .collect();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log {path}/error.log;\nevents {{}}\n\
             http {{\naccess_log off;\nclient_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\n\
             fastcgi_temp_path {path}/fastcgi;\nuwsgi_temp_path {path}/uwsgi;\nscgi_temp_path {path}/scgi;\n{servers}}}\n"
        );
        let config = dir.write("nginx.conf", config)?;
        let mut command = world.outside.command("/usr/sbin/nginx");
        command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(config);
        let daemon = Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("nginx", || {
            let connected = world.outside.enter(|| TcpStream::connect((address, 80)));
            connected.is_ok_and(|connected| connected.is_ok())
        })?;
        Ok(Self { _daemon: daemon, _dir: dir, address })
    }

    /// Istio's recipe, with the gateway's Service leading to one of these.
    fn recipe(&self, port: u16) -> anyhow::Result<String> {
        let address = self.address;
        let service = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: istio-egressgateway, namespace: istio-system}}\n\
             spec: {{clusterIP: {address}, ports: [{{name: http2, port: {port}}}]}}\n"
        );
        let recipe = seeds(&["003-01-se", "003-04-gw-dr-vs-dr"])?;
        anyhow::ensure!(recipe.contains("          number: 80\n        tls:\n          mode: ISTIO_MUTUAL"));
        // Only what is about the Service's port, not the application's.
        let of_service = |text: String, what: &str| {
            text.replace(&format!("{what}number: 80\n"), &format!("{what}number: {port}\n"))
        };
        let recipe = of_service(recipe, "      - port:\n          ");
        let recipe = of_service(recipe, "subset: httpbin\n        port:\n          ");
        Ok(recipe + &service)
    }
}

/// Puts an identity and its roots where `--identity-dir` looks, by renaming, as rotations do.
fn install(directory: &Path, identity: &Identity, mesh: &Ca) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, file) in [
        ("key.pem", &identity.key),
        ("root-cert.pem", &mesh.root()),
        ("cert-chain.pem", &identity.certificate),
    ] {
        let new = directory.join("new");
        fs::copy(file, &new).with_context(|| format!("can't copy {}", file.display()))?;
        fs::rename(&new, directory.join(name))?;
    }
    Ok(())
}

fn serial(identity: &Identity) -> anyhow::Result<String> {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-serial", "-in"]).arg(&identity.certificate);
    let output = String::from_utf8(command.output()?.stdout)?;
    Ok(output.trim().trim_start_matches("serial=").to_owned())
}

fn assert_refused(run: &Finished, reason: &str) -> anyhow::Result<()> {
    run.expect_code(0)?;
    let answer = run.http()?;
    assert_eq!(answer.status, 503, "{}", run.text());
    assert!(answer.body.contains(reason), "{reason}\n{}", answer.body);
    let line = run.line()?;
    assert!(line.flags.split(',').any(|flag| flag == "UF"), "{}", line.line);
    assert!(line.transport_failure.contains(&reason.replace(' ', "_")), "{}", line.line);
    Ok(())
}

#[test]
fn istios_recipe_for_the_egress_gateway() -> anyhow::Result<()> {
    let world = World::shared()?;
    let (mesh, other) = (Ca::new(&unique())?, Ca::new(&unique())?);
    let gateways = Gateways::start(
        world,
        &mesh,
        &[
            mesh.mesh_identity("gateway", GATEWAY)?,
            other.mesh_identity("gateway", GATEWAY)?,
            mesh.mesh_identity("elsewhere", "spiffe://elsewhere/ns/istio-system/sa/gateway")?,
            mesh.expired_mesh_identity("expired", GATEWAY)?,
            mesh.server("server", &["istio-egressgateway.istio-system.svc.cluster.local", "httpbin.org"])?,
        ],
    )?;
    let dir = Dir::new()?;
    let own = mesh.mesh_identity("own", OURS)?;
    install(&dir.join("own"), &own, &mesh)?;
    install(&dir.join("expired"), &mesh.expired_mesh_identity("own-expired", OURS)?, &mesh)?;
    install(&dir.join("foreign"), &other.mesh_identity("own", OURS)?, &mesh)?;
    fs::create_dir(dir.join("empty"))?;
    let run = |port: u16, identity: Option<&str>| {
        let pod = world.pod()?;
        let mut interceptor = pod.interceptor()?.config(&gateways.recipe(port)?)?.registry_only();
        if let Some(identity) = identity {
            interceptor = interceptor.flag("--identity-dir").flag(dir.join(identity));
        }
        interceptor.curl(&["http://httpbin.org/"])
    };

    let right = run(80, Some("own"))?;
    assert_eq!(right.http()?.body, format!("SUCCESS httpbin.org h2 httpbin.org {}\n", serial(&own)?));
    assert_eq!(
        right.line()?.cluster,
        "outbound|80|httpbin|istio-egressgateway.istio-system.svc.cluster.local"
    );

    let none = run(80, None)?;
    assert_refused(&none, "mode ISTIO_MUTUAL needs an identity of the mesh: give --identity-dir DIR")?;
    assert!(none.stderr.contains("[EGR0104]"), "{}", none.stderr);
    let expired = run(80, Some("expired"))?;
    assert_refused(&expired, "can't be used: it expired at 2020-01-01T00:00:00Z")?;
    assert!(expired.stderr.contains("[EGR0104]"), "{}", expired.stderr);
    let empty = run(80, Some("empty"))?;
    assert_refused(&empty, "no cert-chain.pem and key.pem")?;
    assert!(empty.stderr.contains("[EGR0104]"), "{}", empty.stderr);
    // nginx takes its handshake, and refuses the request: nothing of the mesh's is shown to it.
    assert_eq!(run(80, Some("foreign"))?.http()?.status, 400);

    assert_refused(&run(81, Some("own"))?, "CERTIFICATE_VERIFY_FAILED")?;
    assert_refused(&run(82, Some("own"))?, "of trust domain elsewhere, ours of cluster.local")?;
    assert_refused(&run(83, Some("own"))?, "expired")?;
    assert_refused(&run(84, Some("own"))?, "it has no identity")
}

#[test]
fn a_renewed_identity_is_shown_without_a_restart() -> anyhow::Result<()> {
    let world = World::shared()?;
    let mesh = Ca::new(&unique())?;
    let gateways = Gateways::start(world, &mesh, &[mesh.mesh_identity("gateway", GATEWAY)?])?;
    let dir = Dir::new()?;
    let directory = dir.join("identity");
    let (first, second) = (mesh.mesh_identity("first", OURS)?, mesh.mesh_identity("second", OURS)?);
    install(&directory, &first, &mesh)?;
    let pod = world.pod()?;
    let interceptor = pod.interceptor()?.config(&gateways.recipe(80)?)?;
    let mut session = interceptor.flag("--identity-dir").flag(&directory).session()?;
    let mut answer = || -> anyhow::Result<String> {
        let (_, http) = session.curl("http://httpbin.org/")?;
        Ok(http.map(|http| http.body).unwrap_or_default())
    };
    assert!(answer()?.contains(&serial(&first)?));
    install(&directory, &second, &mesh)?;
    let serial = serial(&second)?;
    eventually("the renewed identity is shown", || answer().is_ok_and(|body| body.contains(&serial)))?;
    install(&directory, &mesh.expired_mesh_identity("third", OURS)?, &mesh)?;
    eventually("the expired one is refused", || {
        answer().is_ok_and(|body| body.contains("it expired at 2020-01-01T00:00:00Z"))
    })
}

/// No file changes then, and no request may come for hours.
#[test]
fn an_identity_that_expires_meanwhile_is_told() -> anyhow::Result<()> {
    let mesh = Ca::new(&unique())?;
    let dir = Dir::new()?;
    let pod = World::shared()?.pod()?;
    let config = format!(
        "{}---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec:\n  \
         host: httpbin.org\n  trafficPolicy:\n    tls: {{mode: ISTIO_MUTUAL}}\n",
        seeds(&["003-01-se"])?
    );
    let line = config.lines().count();
    // Its first start may take longer than the identity lasts.
    pod.interceptor()?.session()?.finish()?.expect_code(0)?;
    let interceptor = pod.interceptor()?.config(&config)?;
    let directory = dir.join("identity");
    install(&directory, &mesh.mesh_identity_for("own", OURS, Duration::from_secs(15))?, &mesh)?;
    let mut session = interceptor.flag("--identity-dir").flag(&directory).session()?;
    session.sh("true")?;
    assert!(!session.running.stderr().contains("EGR0104"), "{}", session.running.stderr());
    wait_for("the finding", Duration::from_secs(60), || {
        session.running.stderr().contains("EGR0104").then_some(())
    })?;
    let stderr = session.running.stderr();
    let finding = stderr.lines().find(|line| line.contains("EGR0104")).unwrap_or_default();
    assert!(finding.contains("cert-chain.pem can't be used: it expired at"), "{finding}");
    // Where `analyze` has it, too: at the mode and not at the mapping that it is in.
    assert!(finding.contains(&format!("config.yaml:{line}:17: error: ")), "{finding}");
    session.sh("true")?;
    assert_eq!(session.running.stderr().matches("EGR0104").count(), 1, "told once");
    Ok(())
}

/// As Istio has it for TCP through its gateway. The server is Python's, which tells what it sees.
#[test]
fn opaque_bytes() -> anyhow::Result<()> {
    let world = World::shared()?;
    let mesh = Ca::new(&unique())?;
    let (dir, address) = (Dir::new()?, world.address());
    let gateway = mesh.mesh_identity("gateway", GATEWAY)?;
    install(&dir.join("identity"), &mesh.mesh_identity("own", OURS)?, &mesh)?;
    let (certificate, key, root) = (gateway.certificate.display(), gateway.key.display(), mesh.root());
    let server = python(&format!(
        "import ssl\nseen = []\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n\
         context.load_cert_chain('{certificate}', '{key}')\ncontext.load_verify_locations('{}')\n\
         context.verify_mode = ssl.CERT_REQUIRED\ncontext.set_alpn_protocols(['istio'])\n\
         context.sni_callback = lambda connection, name, context: seen.append(name)\n\
         listener = socket.create_server(('{address}', 7000))\nprint('listening', flush=True)\n\
         client = context.wrap_socket(listener.accept()[0], server_side=True)\n\
         names = client.getpeercert()['subjectAltName']\n\
         client.sendall(repr((client.recv(100), seen, client.selected_alpn_protocol(), names)).encode())\n",
        root.display()
    ))?;
    let log = dir.join("log");
    let mut command = world.outside.command(&server[0]);
    let _daemon = Daemon::spawn(command.args(&server[1..]), &log)?.wait_ready("Python's server", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("listening"))
    })?;
    let config = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: tcp}}\nspec:\n  \
         hosts: [tcp.example.com]\n  addresses: [{address}]\n  ports: [{{number: 7000, name: tcp, protocol: TCP}}]\n  \
         resolution: STATIC\n  endpoints: [{{address: {address}}}]\n---\napiVersion: networking.istio.io/v1\n\
         kind: DestinationRule\nmetadata: {{name: tcp}}\nspec:\n  host: tcp.example.com\n  \
         trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}\n"
    );
    let pod = world.pod()?;
    let interceptor = pod.interceptor()?.config(&config)?.flag("--identity-dir").flag(dir.join("identity"));
    let run = interceptor.run(&python(&format!(
        "s = socket.create_connection(('{address}', 7000), 20)\ns.sendall(b'hello')\nprint(s.recv(1000).decode())\n"
    ))?)?;
    run.expect_code(0)?;
    let expected =
        format!("(b'hello', ['outbound_.7000_._.tcp.example.com'], 'istio', (('URI', '{OURS}'),))\n");
    assert_eq!(run.text(), expected);
    Ok(())
}
