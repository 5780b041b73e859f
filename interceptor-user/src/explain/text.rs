//! An explanation as people read it.

use std::fmt;

use super::explanation::{Client, Explanation, Outcome, Place, Step};
use crate::resource::printable;

/// How wide the names of steps are.
const MARGIN: usize = 14;

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(client) = &self.client {
            writeln!(formatter, "{} from {}", self.target, whose(client))?;
        }
        if let Some(gateway) = &self.gateway {
            writeln!(formatter, "{} at the gateway of {}", self.target, whose(gateway))?;
        }
        let address = self.destination.address.map(|address| format!("{address}, ")).unwrap_or_default();
        writeln!(formatter, "{:MARGIN$}{address}{}", "address", self.destination.because)?;
        writeln!(formatter, "{:MARGIN$}{}, {}", "protocol", self.protocol.name(), self.protocol_because)?;
        writeln!(formatter)?;
        for step in &self.steps {
            write_step(formatter, step)?;
        }
        for outcome in &self.outcomes {
            write_outcome(formatter, outcome)?;
        }
        Ok(())
    }
}

/// `namespace default with labels a=b`.
fn whose(client: &Client) -> String {
    let labels: Vec<String> = client.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!(" with labels {}", labels.join(",")) };
    format!("namespace {}{labels}", client.namespace)
}

fn write_step(formatter: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
    writeln!(formatter, "{:MARGIN$}{}", step.step, printable(&step.decided))?;
    for place in &step.by {
        writeln!(formatter, "{:MARGIN$}  by {}", "", shown(place))?;
    }
    for note in &step.notes {
        writeln!(formatter, "{:MARGIN$}  {}", "", printable(note))?;
    }
    for lost in &step.passed_over {
        writeln!(formatter, "{:MARGIN$}  not {}: {}", "", shown(&lost.place), printable(&lost.why))?;
    }
    Ok(())
}

fn write_outcome(formatter: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    let share = outcome.share.as_ref().map(|share| format!("{share}: ")).unwrap_or_default();
    writeln!(formatter, "{:MARGIN$}{share}{}", "client sees", printable(&outcome.client_sees))?;
    match &outcome.access_log {
        Some(log) => writeln!(
            formatter,
            "{:MARGIN$}cluster {}, route {}, flags {}, details {}",
            "access log",
            log.cluster,
            log.route,
            log.flags,
            printable(&log.details)
        ),
        None => writeln!(formatter, "{:MARGIN$}nothing", "access log"),
    }
}

/// `VirtualService default/a spec.http[0] (file:1:2)`.
fn shown(place: &Place) -> String {
    let field = place.field.as_ref().map(|field| format!(" {field}")).unwrap_or_default();
    let at = place.at.as_ref().map(|at| format!(" ({})", printable(at))).unwrap_or_default();
    format!("{}{field}{at}", place.resource)
}
