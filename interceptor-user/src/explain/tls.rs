//! The step about TLS: whether there is any towards the endpoints, who says so, what is verified and shown.

use super::destinations::subset_of;
use super::explanation::{Place, Step};
use super::{Context, merged, places, words};
use crate::compile::tls::is_server_name;
use crate::resource::destination_rule::TrafficPolicy;
use crate::resource::{Position, Resource, ResourceKey};
use crate::snapshot::{CaSource, Cluster, TlsOrigination, TlsOriginationMode};

/// `client_chose`: see [`crate::snapshot::TcpRoute::client_chose`].
pub(super) fn step(context: Context<'_>, cluster: &Cluster, client_chose: bool) -> Option<Step> {
    let source = cluster.source.as_ref()?;
    if client_chose {
        return Some(Step::new("tls", "the client's own passes as it is, and none is added"));
    }
    let Some(tls) = &cluster.tls else {
        return Some(Step::new("tls", "none is added: what the application sends goes out as it is"));
    };
    let mut step = Step::new("tls", described(tls));
    let rules = merged::rules(context, &source.destination_rules, subset_of(&cluster.name));
    step.by.extend(rules.by.iter().map(|key| context.place_of_tls(key, cluster)));
    if tls.impossible.is_none() {
        step.notes.extend(files(context, tls));
    }
    Some(step)
}

fn described(tls: &TlsOrigination) -> String {
    if let Some(reason) = &tls.impossible {
        return format!("asked for and not possible: {reason}");
    }
    let mode = match tls.mode {
        TlsOriginationMode::Simple => "SIMPLE",
        TlsOriginationMode::Mutual => "MUTUAL",
        TlsOriginationMode::IstioMutual => "ISTIO_MUTUAL",
    };
    let sni = match &tls.sni {
        None => "the request's Host".to_owned(),
        Some(sni) if is_server_name(sni) => sni.to_string(),
        Some(sni) => format!("none, as {sni} is no DNS name"),
    };
    format!("{mode}: TLS is put around what is sent; server name: {sni}")
}

fn verification(tls: &TlsOrigination) -> String {
    let roots = match &tls.ca {
        CaSource::System => "the system's roots".to_owned(),
        CaSource::File(path) => path.display().to_string(),
        CaSource::Unverified => {
            return "the server's certificate is not verified (insecureSkipVerify)".into();
        }
    };
    let names = match (tls.subject_alt_names.as_slice(), &tls.sni) {
        ([], _) if tls.mode == TlsOriginationMode::IstioMutual => {
            "an identity of the trust domain that its own is of".into()
        }
        ([], Some(sni)) => sni.to_string(),
        ([], None) => "the request's Host".into(),
        (names, _) => words::few(names.iter().map(ToString::to_string)),
    };
    format!("the server's certificate must be valid for {names}, by {roots}")
}

/// What is verified and presented, and whether the files for it can be used.
fn files(context: Context<'_>, tls: &TlsOrigination) -> Vec<String> {
    let names_files = matches!(tls.ca, CaSource::File(_))
        || tls.ca_crl.is_some()
        || tls.identity.is_some()
        || tls.credential.is_some();
    if !names_files {
        return vec![verification(tls)];
    }
    const HERE: &str = "where the proxy can't use one of them from the start on, nothing is sent and HTTP gets 503; when one \
                        that it used is gone or wrong later, what it had stays in force until it expires";
    match (context.question.look_at_files)(tls) {
        Ok(found) => {
            let identity = found.identity.as_ref().map(|identity| {
                let (certificate, key) = (identity.certificate.display(), identity.private_key.display());
                format!("the client's certificate is {certificate}, with the key {key}")
            });
            let here = format!("the files are here and can be used; {HERE}");
            [verification(&found)].into_iter().chain(identity).chain([here]).collect()
        }
        Err(reason) => {
            let unusable = format!("the files can't be used: {reason}; {HERE}");
            // A directory of credentials was given for this question.
            let are_of_the_proxy = context.question.is_proxy_here || tls.credential.is_some();
            let elsewhere = (!are_of_the_proxy).then(|| {
                "this is the answer of a proxy on this machine, as that of exec; where it runs elsewhere, the files there count"
                    .to_owned()
            });
            std::iter::once(unusable).chain(elsewhere).collect()
        }
    }
}

impl Context<'_> {
    /// The place of the TLS settings in a DestinationRule that hold for a cluster.
    fn place_of_tls(&self, key: &ResourceKey, cluster: &Cluster) -> Place {
        let Some(Resource::DestinationRule(rule)) = self.world.resources.get(key) else {
            return self.place_of(key);
        };
        let subset_name = subset_of(&cluster.name);
        let subset = rule.subsets.iter().enumerate().find(|(_, subset)| *subset.name == *subset_name);
        let in_subset = subset.and_then(|(index, subset)| {
            let path = format!("spec.subsets[{index}].trafficPolicy");
            tls_in(&subset.policy, cluster.port, &path)
        });
        let found = in_subset.or_else(|| tls_in(&rule.policy, cluster.port, "spec.trafficPolicy"));
        match found {
            Some((field, position)) => places::place(&rule.meta, Some(field), position),
            None => places::whole(&rule.meta),
        }
    }
}

/// The `tls` of a policy that holds for a port.
fn tls_in(policy: &TrafficPolicy, port: u16, path: &str) -> Option<(String, Position)> {
    if let Some(blocks) = policy.ports.get(&port) {
        return blocks
            .tls
            .as_ref()
            .map(|tls| (format!("{path}.portLevelSettings[port {port}].tls"), tls.position));
    }
    policy.blocks.tls.as_ref().map(|tls| (format!("{path}.tls"), tls.position))
}
