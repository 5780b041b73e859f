//! The path that routes and upstreams get.

use interceptor_user::snapshot::{PathNormalization, RouteMatch, StringMatch};

use crate::support::{Config, HOST, Upstream, get};

#[test]
fn a_path_is_judged_and_sent_as_the_mesh_has_it() {
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
    for (how, path, sent) in [
        (Base, "/public\\..\\secret", "/secret"),
        (Base, "/public/%2E%2e/secret", "/secret"),
        (Base, "/public//%41", "/public//A"),
        (None, "/public/../secret", "/public/../secret"),
        (None, "/public\\..\\secret", "/public\\..\\secret"),
        (MergeSlashes, "/public//a\\\\b?q=//", "/public/a/b?q=//"),
        (DecodeAndMergeSlashes, "/public%2f..%5Csecret", "/secret"),
        (MergeSlashes, "/public%2f..%5Csecret", "/public%2f..%5Csecret"),
    ] {
        let upstream = Upstream::echo();
        let mut config = Config::new(&[upstream.address]);
        config.snapshot.mesh.path_normalization = how;
        let proxy = config.start();
        let reply = proxy.get(path);
        assert_eq!(reply.status(), 200, "{how:?} {path}");
        assert!(reply.text().starts_with(&format!("GET {sent} HTTP/1.1\r\n")), "{how:?} {path}: {reply:?}");
        assert_eq!(proxy.records.only().text("path"), sent, "{how:?} {path}");
    }
}

#[test]
fn a_route_takes_the_normal_path_only() {
    let upstream = Upstream::echo();
    for (path, status) in
        [("/public/x", 200), ("/public\\x", 200), ("/public\\..\\secret", 404), ("\\public", 400)]
    {
        let mut config = Config::new(&[upstream.address]);
        let uri = Some(StringMatch::Prefix("/public/".into()));
        config.matches = vec![RouteMatch { uri, ..RouteMatch::default() }];
        let proxy = config.start();
        let mut client = proxy.client();
        // What comes first decides whether the connection speaks HTTP at all.
        client.send(get(HOST, "/public/") + &get(HOST, path));
        assert_eq!((client.reply().status(), client.reply().status()), (200, status), "{path}");
    }
}
