//! The resources of the tutorials, exactly as written there (tests/data/seeds, one file for each YAML block).

use std::path::PathBuf;

use anyhow::Context;

/// Where the blocks are.
pub fn seeds_dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/seeds"))
}

/// The named blocks as one stream of documents.
pub fn seeds(names: &[&str]) -> anyhow::Result<String> {
    let texts = names
        .iter()
        .map(|name| {
            let path = seeds_dir().join(format!("{name}.yaml"));
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        })
        .collect::<anyhow::Result<Vec<String>>>()?;
    Ok(texts.join("\n---\n"))
}
