//! A cluster as it really is: TLS by the cluster's own CA, and a token. The real nginx stands in front of the server.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

use interceptor_tests::{ApiServer, Ca, Daemon, wait_for};
use interceptor_user::source::kubernetes::KubernetesSettings;

use crate::support::{service_entry, settings, start_with};

const TOKEN: &str = "throw-away";

/// nginx, which wants the token, before the server, and a port of its own.
fn front(server: &ApiServer, ca: &Ca) -> anyhow::Result<(Daemon, u16)> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let (dir, identity) = (server.dir(), ca.server("api-server", &["127.0.0.1"])?);
    let own = dir.path().display();
    let config = dir.write(
        "nginx.conf",
        format!(
            "daemon off;\nmaster_process off;\npid {own}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n\
             client_body_temp_path {own}/body;\nproxy_temp_path {own}/proxy;\nfastcgi_temp_path {own}/fastcgi;\n\
             uwsgi_temp_path {own}/uwsgi;\nscgi_temp_path {own}/scgi;\n\
             server {{\nlisten 127.0.0.1:{port} ssl;\nssl_certificate {};\nssl_certificate_key {};\n\
             if ($http_authorization != \"Bearer {TOKEN}\") {{ return 401; }}\n\
             location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_buffering off; }}\n}}\n}}\n",
            identity.certificate.display(),
            identity.key.display(),
            server.address(),
        ),
    )?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(dir.path()).arg("-c").arg(config);
    let ready = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    Ok((Daemon::spawn(&mut command, &dir.join("log"))?.wait_ready("nginx", ready)?, port))
}

fn kubeconfig(server: &ApiServer, port: u16, ca: &Ca, user: &str) -> anyhow::Result<KubernetesSettings> {
    let path = server.dir().write(
        "tls-kubeconfig",
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: test, user: {user}}}]\ncontexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            ca.root().display()
        ),
    )?;
    Ok(KubernetesSettings { kubeconfig: Some(path), ..settings(server) })
}

#[test]
fn by_the_clusters_ca_and_the_token_of_a_file() -> anyhow::Result<()> {
    let (server, ca) = (ApiServer::start()?, Ca::new("the cluster's")?);
    server.apply(&service_entry("one", "a.example.com"))?;
    let (_nginx, port) = front(&server, &ca)?;
    let token = server.dir().write("token", TOKEN)?;
    let user = format!("{{tokenFile: '{}'}}", token.display());
    let followed = start_with(kubeconfig(&server, port, &ca, &user)?)?;
    followed.wait_for_keys(&["ServiceEntry shop/one"])?;
    server.apply(&service_entry("two", "b.example.com"))?;
    followed.wait_for_keys(&["ServiceEntry shop/one", "ServiceEntry shop/two"])?;
    Ok(())
}

#[test]
fn a_wrong_token_and_a_server_of_another_ca_are_told() -> anyhow::Result<()> {
    let (server, ca, other) = (ApiServer::start()?, Ca::new("the cluster's")?, Ca::new("another")?);
    let (_nginx, port) = front(&server, &ca)?;
    for (ca, user, why) in [(&ca, "{token: wrong}", "401"), (&other, "{}", "UnknownIssuer")] {
        let followed = start_with(kubeconfig(&server, port, ca, user)?)?;
        let trouble =
            wait_for("trouble", std::time::Duration::from_secs(30), || followed.status().api_server.clone())?;
        assert!(trouble.why.contains(why), "{trouble:?} instead of {why}");
        followed.wait_for_failure("services", why)?;
        // Nothing is known: no World may say that there is nothing.
        assert!(!followed.status().is_synced && followed.worlds() == 0);
    }
    // Nothing was asked in spite of it.
    assert_eq!(server.requests(), Vec::<String>::new());
    Ok(())
}
