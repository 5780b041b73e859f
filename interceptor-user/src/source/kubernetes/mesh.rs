//! The mesh's settings, from a ConfigMap that may be missing, or written wrongly.

use std::sync::Arc;

use super::object::Object;
use crate::resource::{Diagnostic, Level, MeshConfig, Origin, code, mesh_config};

#[derive(Debug, Default)]
pub(super) struct MeshSettings {
    /// Under which the ConfigMap has them.
    key: Arc<str>,
    acting: MeshConfig,
    findings: Vec<Diagnostic>,
    /// Why they can't be used, while none could be used before.
    unusable: Option<String>,
    /// Some could be used, or there were none to use.
    is_known: bool,
}

impl MeshSettings {
    pub(super) fn new(key: Arc<str>) -> Self {
        Self { key, ..Self::default() }
    }

    pub(super) fn acting(&self) -> &MeshConfig {
        &self.acting
    }

    pub(super) fn findings(&self) -> &[Diagnostic] {
        &self.findings
    }

    pub(super) fn unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// Takes up a ConfigMap. True when anything is different.
    pub(super) fn read(&mut self, object: &Object) -> bool {
        let origin: Arc<str> = object.origin().into();
        let (config, findings) = match object.json.text(&["data", &self.key]) {
            Some(text) => mesh_config::parse(&origin, text),
            None => {
                let message = format!("`data.{}` is missing: expected MeshConfig there", self.key);
                (None, vec![finding(Level::Error, &origin, message)])
            }
        };
        let mut findings = findings;
        for finding in findings.iter_mut().filter(|finding| finding.level == Level::Error) {
            finding.effect = "nodes keep their last good settings; one that starts now waits".into();
        }
        let is_changed = config.as_ref().is_some_and(|config| *config != self.acting);
        match config {
            Some(config) => {
                self.acting = config;
                self.is_known = true;
                self.unusable = None;
            }
            None if self.is_known => {}
            None => {
                let error = findings.iter().find(|finding| finding.level == Level::Error);
                self.unusable = Some(error.map(ToString::to_string).unwrap_or_default());
            }
        }
        let is_told_otherwise = self.findings != findings;
        self.findings = findings;
        is_changed || is_told_otherwise
    }

    /// There is no such ConfigMap: Istio's defaults hold.
    pub(super) fn is_absent(&mut self) {
        self.is_known = true;
    }

    /// It was there and was removed.
    pub(super) fn is_gone(&mut self, origin: &Arc<str>) {
        let message = "was removed: Istio's defaults hold from now on".to_owned();
        *self = Self {
            is_known: true,
            findings: vec![finding(Level::Warning, origin, message)],
            ..Self::new(Arc::clone(&self.key))
        };
    }
}

fn finding(level: Level, origin: &Arc<str>, message: String) -> Diagnostic {
    Diagnostic {
        level,
        code: Some(code::IST0106.id),
        origin: Some(Origin::of_file(origin)),
        resource: "MeshConfig".into(),
        field: String::new(),
        message,
        effect: String::new(),
        mend: String::new(),
    }
}
