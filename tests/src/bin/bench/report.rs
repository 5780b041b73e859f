//! What was measured, as a table for people (terminal and Markdown) and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::plot;
use crate::row::Row;
use crate::workload::{Column, Measured, Workload};

/// Figures by name; the unit is the end of the name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of the machine, the kernel and every program.
    pub(crate) versions: BTreeMap<String, String>,
    rounds: Vec<Round>,
    medians: Vec<Medians>,
}

/// One row of one round.
#[derive(Debug, Serialize)]
struct Round {
    workload: &'static str,
    row: String,
    round: usize,
    #[serde(flatten)]
    result: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Measured { others_cpu: f64, disturbed: bool, figures: Figures },
    Failed(String),
}

/// The medians over a row's rounds: those that nobody disturbed, or all if there are none.
#[derive(Debug, Serialize)]
struct Medians {
    workload: &'static str,
    row: String,
    rounds: usize,
    disturbed_rounds: usize,
    failed_rounds: usize,
    figures: Figures,
}

impl Report {
    pub(crate) fn new(versions: BTreeMap<String, String>) -> Self {
        Self { versions, rounds: Vec::new(), medians: Vec::new() }
    }

    pub(crate) fn add(
        &mut self,
        workload: Workload,
        row: String,
        round: usize,
        measured: anyhow::Result<Measured>,
    ) {
        let result = match measured {
            Ok(Measured { seen, figures }) => {
                Outcome::Measured { others_cpu: seen.others, disturbed: seen.disturbed(), figures }
            }
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        self.rounds.push(Round { workload: workload.name(), row, round, result });
    }

    /// Takes the medians of a workload's rows and returns its table.
    pub(crate) fn finish(&mut self, workload: Workload) -> String {
        let first = self.medians.len();
        let mut rows: Vec<String> = Vec::new();
        for round in self.rounds.iter().filter(|round| round.workload == workload.name()) {
            if !rows.contains(&round.row) {
                rows.push(round.row.clone());
            }
        }
        self.medians.extend(rows.iter().map(|row| medians_of(&self.rounds, workload, row)));
        let medians = self.medians.get_mut(first..).unwrap_or_default();
        if let Some(cost) = workload.cost() {
            let of = |row: &Medians| row.figures.get(cost).copied();
            let interceptor = Row::Interceptor.to_string();
            let ours = medians.iter().find(|row| row.row == interceptor).and_then(of);
            for row in medians.iter_mut().filter(|row| row.row != interceptor) {
                if let Some((ours, theirs)) = ours.zip(of(row)) {
                    row.figures.insert("ratio", ours / theirs);
                }
            }
        }
        table(workload.columns(), medians)
    }

    /// Why rounds failed, each reason once.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut reasons: Vec<String> = Vec::new();
        for round in &self.rounds {
            if let Outcome::Failed(why) = &round.result {
                let line = format!("{}, {}: {why}", round.workload, round.row);
                if !reasons.contains(&line) {
                    reasons.push(line);
                }
            }
        }
        reasons
    }

    pub(crate) fn write(&self, json: &Path, tables: &[(Workload, String)]) -> anyhow::Result<()> {
        if let Some(directory) = json.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let text = serde_json::to_string_pretty(self).context("cannot write JSON")?;
        std::fs::write(json, text + "\n").with_context(|| format!("cannot write {}", json.display()))?;
        let plots = json.with_extension("svg");
        std::fs::write(&plots, plot::svg(&self.blocks(tables)))
            .with_context(|| format!("cannot write {}", plots.display()))?;
        let markdown = json.with_extension("md");
        std::fs::write(
            &markdown,
            self.markdown(tables, &plots.file_name().unwrap_or_default().to_string_lossy()),
        )
        .with_context(|| format!("cannot write {}", markdown.display()))
    }

    /// What each row costs its proxy.
    fn blocks(&self, tables: &[(Workload, String)]) -> Vec<plot::Block> {
        let block = |workload: &Workload| {
            let cost = workload.cost()?;
            let (_, unit, _) = workload.columns().iter().find(|(name, _, _)| *name == cost)?;
            let rows = self.medians.iter().filter(|row| row.workload == workload.name());
            let bars = rows.filter_map(|row| Some((row.row.clone(), *row.figures.get(cost)?))).collect();
            Some((format!("{}: {unit}", workload.title()), bars))
        };
        tables.iter().filter_map(|(workload, _)| block(workload)).collect()
    }

    fn markdown(&self, tables: &[(Workload, String)], plots: &str) -> String {
        let mut text = format!("# Last run\n\n![what each row costs its proxy]({plots})\n\n");
        for (name, version) in &self.versions {
            text.push_str(&format!("- {name}: {version}\n"));
        }
        for (workload, table) in tables {
            text.push_str(&format!(
                "\n## {}\n\n`--workload {}`\n\n{table}",
                workload.title(),
                workload.name()
            ));
        }
        text
    }
}

fn medians_of(rounds: &[Round], workload: Workload, row: &str) -> Medians {
    let rounds: Vec<&Round> =
        rounds.iter().filter(|round| round.workload == workload.name() && round.row == row).collect();
    let measured: Vec<(bool, &Figures)> = rounds
        .iter()
        .filter_map(|round| match &round.result {
            Outcome::Measured { disturbed, figures, .. } => Some((*disturbed, figures)),
            Outcome::Failed(_) => None,
        })
        .collect();
    let quiet: Vec<&Figures> = measured.iter().filter(|(disturbed, _)| !disturbed).map(|(_, f)| *f).collect();
    let all: Vec<&Figures> = measured.iter().map(|(_, figures)| *figures).collect();
    let taken = if quiet.is_empty() { &all } else { &quiet };
    let mut by_name: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (name, value) in taken.iter().flat_map(|figures| figures.iter()) {
        by_name.entry(name).or_default().push(*value);
    }
    Medians {
        workload: workload.name(),
        row: row.to_owned(),
        rounds: rounds.len(),
        disturbed_rounds: measured.len() - quiet.len(),
        failed_rounds: rounds.len() - measured.len(),
        figures: by_name.into_iter().filter_map(|(name, values)| Some((name, median(values)?))).collect(),
    }
}

/// A Markdown table that also reads well on a terminal: columns are padded.
fn table(columns: &[Column], rows: &[Medians]) -> String {
    let mut lines = vec![vec![String::from("row")]];
    if let Some(header) = lines.first_mut() {
        header.extend(columns.iter().map(|(_, title, _)| (*title).to_owned()));
        header.push("rounds".to_owned());
    }
    for row in rows {
        let mut line = vec![row.row.clone()];
        line.extend(columns.iter().map(|(name, _, decimals)| {
            row.figures.get(name).map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
        }));
        line.push(rounds(row));
        lines.push(line);
    }
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<width$}", width = width(0)),
            _ => format!("{cell:>width$}", width = width(column)),
        });
        text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
        if number == 0 {
            let rules = (0..line.len()).map(|column| match column {
                0 => "-".repeat(width(0)),
                _ => format!("{}:", "-".repeat(width(column).saturating_sub(1))),
            });
            text.push_str(&format!("| {} |\n", rules.collect::<Vec<_>>().join(" | ")));
        }
    }
    text
}

/// How many rounds there were, and what was wrong with some.
fn rounds(row: &Medians) -> String {
    let mut text = row.rounds.to_string();
    if row.disturbed_rounds > 0 && write!(text, ", {} disturbed", row.disturbed_rounds).is_err() {
        return text;
    }
    if row.failed_rounds > 0 && write!(text, ", {} FAILED", row.failed_rounds).is_err() {
        return text;
    }
    text
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied()?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = values.get(values.len() / 2 - 1).copied()?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuTime;
    use crate::window::Seen;

    fn measured(cpu_us: f64, others: f64) -> anyhow::Result<Measured> {
        let seen = Seen { proxy: CpuTime::default(), gateway: CpuTime::default(), others, redirected: 0.0 };
        Ok(Measured { seen, figures: Figures::from([("cpu_us", cpu_us)]) })
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn disturbed_rounds_count_only_when_all_are() {
        let mut report = Report::new(BTreeMap::new());
        for (round, (cpu_us, others)) in [(90.0, 1.5), (10.0, 0.0), (12.0, 0.2)].into_iter().enumerate() {
            report.add(Workload::Keepalive, "interceptor".to_owned(), round, measured(cpu_us, others));
            report.add(Workload::Keepalive, "envoy".to_owned(), round, measured(4.0 * cpu_us, 1.5));
        }
        report.add(Workload::Keepalive, "envoy".to_owned(), 3, Err(anyhow::anyhow!("it did not start")));

        let table = report.finish(Workload::Keepalive);

        let rows: Vec<(&str, f64, String)> =
            report.medians.iter().map(|row| (row.row.as_str(), row.figures["cpu_us"], rounds(row))).collect();
        assert_eq!(rows[0], ("interceptor", 11.0, "3, 1 disturbed".to_owned()));
        assert_eq!(rows[1], ("envoy", 48.0, "4, 3 disturbed, 1 FAILED".to_owned()));
        assert_eq!(report.medians[1].figures["ratio"], 11.0 / 48.0);
        assert_eq!(report.failures(), ["keepalive, envoy: it did not start"]);
        assert!(table.lines().nth(3).is_some_and(|line| line.contains(" 48.0 |")), "{table}");
    }
}
