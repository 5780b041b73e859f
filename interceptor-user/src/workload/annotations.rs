//! Istio's annotations of a pod that say which of its outbound connections are redirected
//! (istio: annotation/annotations.yaml, pkg/kube/inject/validate.go).

use super::{
    ParseError, RedirectPolicy, parse_exclude_ip_ranges, parse_include_ip_ranges, parse_interfaces,
    parse_ports as ports,
};

/// One that acts on outbound connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Annotation {
    IncludeOutboundIpRanges,
    ExcludeOutboundIpRanges,
    IncludeOutboundPorts,
    ExcludeOutboundPorts,
    ExcludeInterfaces,
}

/// An annotation whose value can't be used: Istio's injector refuses the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {name}: {cause}")]
pub struct AnnotationError {
    pub name: &'static str,
    pub cause: ParseError,
}

impl Annotation {
    pub const ALL: [Self; 5] = [
        Self::IncludeOutboundIpRanges,
        Self::ExcludeOutboundIpRanges,
        Self::IncludeOutboundPorts,
        Self::ExcludeOutboundPorts,
        Self::ExcludeInterfaces,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::IncludeOutboundIpRanges => "traffic.sidecar.istio.io/includeOutboundIPRanges",
            Self::ExcludeOutboundIpRanges => "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            Self::IncludeOutboundPorts => "traffic.sidecar.istio.io/includeOutboundPorts",
            Self::ExcludeOutboundPorts => "traffic.sidecar.istio.io/excludeOutboundPorts",
            Self::ExcludeInterfaces => "traffic.sidecar.istio.io/excludeInterfaces",
        }
    }

    /// `None` for an annotation that says nothing about outbound connections.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|annotation| annotation.name() == name)
    }

    fn apply(self, value: &str, policy: &mut RedirectPolicy) -> Result<(), ParseError> {
        match self {
            Self::IncludeOutboundIpRanges => policy.include_ip_ranges = parse_include_ip_ranges(value)?,
            Self::ExcludeOutboundIpRanges => policy.exclude_ip_ranges = parse_exclude_ip_ranges(value)?,
            Self::IncludeOutboundPorts => policy.include_ports = ports(value)?,
            Self::ExcludeOutboundPorts => policy.exclude_ports = ports(value)?,
            Self::ExcludeInterfaces => policy.exclude_interfaces = parse_interfaces(value)?,
        }
        Ok(())
    }
}

impl RedirectPolicy {
    /// What a pod with these annotations gets; those that say nothing about outbound connections count for nothing.
    pub fn from_annotations<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, AnnotationError> {
        let mut policy = Self::default();
        for (name, value) in annotations {
            if let Some(annotation) = Annotation::of_name(name) {
                let refused = |cause| AnnotationError { name: annotation.name(), cause };
                annotation.apply(value, &mut policy).map_err(refused)?;
            }
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "traffic.sidecar.istio.io/";

    #[test]
    fn each_annotation_says_its_part() {
        let annotations = [
            ("includeOutboundIPRanges", "10.0.0.0/8"),
            ("excludeOutboundIPRanges", "10.10.0.4/32"),
            ("includeOutboundPorts", "80"),
            ("excludeOutboundPorts", "443,5432"),
            ("excludeInterfaces", "net1,net2"),
            ("excludeInboundPorts", "not looked at"),
        ]
        .map(|(name, value)| (format!("{PREFIX}{name}"), value));
        let given = annotations.iter().map(|(name, value)| (&**name, *value));
        let expected = RedirectPolicy {
            include_ip_ranges: parse_include_ip_ranges("10.0.0.0/8").unwrap(),
            exclude_ip_ranges: parse_exclude_ip_ranges("10.10.0.4/32").unwrap(),
            include_ports: vec![80],
            exclude_ports: vec![443, 5432],
            exclude_interfaces: parse_interfaces("net1,net2").unwrap(),
            ..RedirectPolicy::default()
        };
        assert_eq!(RedirectPolicy::from_annotations(given), Ok(expected));
        assert_eq!(RedirectPolicy::from_annotations([]), Ok(RedirectPolicy::default()));
    }

    #[test]
    fn a_value_that_cannot_be_read_is_named() {
        let name = format!("{PREFIX}excludeOutboundIPRanges");
        let error = RedirectPolicy::from_annotations([(&*name, "10.10.0.4")]).unwrap_err().to_string();
        assert!(error.contains(&name) && error.contains("10.10.0.4/32"), "{error}");
    }
}
