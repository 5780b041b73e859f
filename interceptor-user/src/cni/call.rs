//! What the container runtime asks, from the environment variables of the CNI specification. Pure.

use serde::Serialize;

use super::failure::{self, Failure};

/// The plugin's operation, and all that is known of the attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) command: Command,
    pub(super) container_id: String,
    /// The path of the network namespace; may be empty for DEL.
    pub(super) netns: String,
    /// `None`: the container belongs to no pod.
    pub(super) pod: Option<PodName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// What a runtime for Kubernetes says of the pod in CNI_ARGS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Empty: the runtime is older than the argument.
    pub(super) uid: String,
}

impl Command {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let all = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];
        all.into_iter().find(|command| command.name() == name)
    }

    /// Whether it is about one container, which the environment must name.
    const fn is_of_container(self) -> bool {
        match self {
            Self::Add | Self::Del | Self::Check => true,
            Self::Gc | Self::Status | Self::Version => false,
        }
    }
}

impl Call {
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let value = |name: &str| variable(name).unwrap_or_default();
        let command = value("CNI_COMMAND");
        let Some(command) = Command::parse(&command) else {
            return Err(Failure::new(
                failure::INVALID_ENVIRONMENT,
                format!("CNI_COMMAND is {command:?}: expected ADD, DEL, CHECK, GC, STATUS or VERSION"),
            ));
        };
        let call = Self {
            command,
            container_id: value("CNI_CONTAINERID"),
            netns: value("CNI_NETNS"),
            pod: PodName::read(&value("CNI_ARGS")),
        };
        let mut missing = Vec::new();
        if command.is_of_container() && call.container_id.is_empty() {
            missing.push("CNI_CONTAINERID");
        }
        // After a reboot there may be no namespace left to delete from.
        if command.is_of_container() && command != Command::Del && call.netns.is_empty() {
            missing.push("CNI_NETNS");
        }
        if missing.is_empty() {
            return Ok(call);
        }
        Err(Failure::new(
            failure::INVALID_ENVIRONMENT,
            format!("{} needs the environment variables {}", command.name(), missing.join(", ")),
        ))
    }
}

impl PodName {
    /// `NAME=VALUE;NAME=VALUE`; `None` where no pod is named.
    fn read(arguments: &str) -> Option<Self> {
        let value = |wanted: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
        };
        let (namespace, name) = (value("K8S_POD_NAMESPACE")?, value("K8S_POD_NAME")?);
        let uid = value("K8S_POD_UID").unwrap_or_default();
        (!namespace.is_empty() && !name.is_empty()).then_some(Self { namespace, name, uid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINERD: &str = "K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=0f0c;IgnoreUnknown=1;\
        K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1";

    fn read(variables: &[(&str, &str)]) -> Result<Call, Failure> {
        Call::read(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_call_of_containerd() {
        let call = read(&[
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_NETNS", "/var/run/netns/cni-1"),
            ("CNI_ARGS", CONTAINERD),
        ]);
        let pod = PodName { namespace: "shop".into(), name: "web-1".into(), uid: "0f0c".into() };
        let expected = Call {
            command: Command::Add,
            container_id: "c0ffee".into(),
            netns: "/var/run/netns/cni-1".into(),
            pod: Some(pod),
        };
        assert_eq!(call, Ok(expected));
    }

    #[test]
    fn pods() {
        let pod =
            |uid: &str| Some(PodName { namespace: "shop".into(), name: "web-1".into(), uid: uid.to_owned() });
        for (arguments, expected) in [
            (CONTAINERD, pod("0f0c")),
            ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1", pod("")),
            ("K8S_POD_NAMESPACE=shop", None),
            ("K8S_POD_NAMESPACE=;K8S_POD_NAME=", None),
            ("IgnoreUnknown=1", None),
            (";;=;a", None),
            ("", None),
        ] {
            assert_eq!(PodName::read(arguments), expected, "{arguments}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (variables, expected) in [
            (&[][..], "CNI_COMMAND is \"\": expected ADD, DEL, CHECK, GC, STATUS or VERSION"),
            (
                &[("CNI_COMMAND", "add")],
                "CNI_COMMAND is \"add\": expected ADD, DEL, CHECK, GC, STATUS or VERSION",
            ),
            (&[("CNI_COMMAND", "ADD")], "ADD needs the environment variables CNI_CONTAINERID, CNI_NETNS"),
            (
                &[("CNI_COMMAND", "CHECK"), ("CNI_CONTAINERID", "c")],
                "CHECK needs the environment variables CNI_NETNS",
            ),
            (&[("CNI_COMMAND", "DEL")], "DEL needs the environment variables CNI_CONTAINERID"),
        ] {
            let failure = read(variables).unwrap_err();
            assert_eq!((failure.code, failure.msg.as_str()), (failure::INVALID_ENVIRONMENT, expected));
        }
        assert!(read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c")]).is_ok());
        for command in ["VERSION", "GC", "STATUS"] {
            assert!(read(&[("CNI_COMMAND", command)]).is_ok(), "{command}");
        }
    }
}
