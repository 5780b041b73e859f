//! Data in the form that was asked for: as people read it, JSON or YAML. Pure.

use serde::Serialize;

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Text, or a table.
    #[default]
    Text,
    Json,
    Yaml,
}

#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("can't write JSON")]
    Json(#[source] serde_json::Error),
    #[error("can't write YAML")]
    Yaml(#[source] serde_saphyr::ser::Error),
}

impl Output {
    /// As `FromStr` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Yaml => "yaml",
        }
    }

    pub fn render<T: Serialize>(
        self,
        data: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<String, OutputError> {
        match self {
            Self::Text => Ok(text(data)),
            Self::Json => json(data),
            Self::Yaml => yaml(data),
        }
    }
}

/// `text` or `table`, `json`, `yaml`.
impl std::str::FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" | "table" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            _ => Err("expected text, json or yaml".to_owned()),
        }
    }
}

pub fn json(data: &impl Serialize) -> Result<String, OutputError> {
    Ok(serde_json::to_string_pretty(data).map_err(OutputError::Json)? + "\n")
}

fn yaml(data: &impl Serialize) -> Result<String, OutputError> {
    let text = serde_saphyr::to_string(data).map_err(OutputError::Yaml)?;
    Ok(text.trim_end().to_owned() + "\n")
}
