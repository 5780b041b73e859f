//! Flows in columns. Lines are written as they come: a column is as wide as the widest cell so far.

use serde::Deserialize;

/// A line of the agent's answer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Line {
    Lost { lost: u64 },
    Ended(Box<Row>),
}

/// What is shown of a flow.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    time: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    pod: String,
    principal: Option<String>,
    original_destination: String,
    server_name: Option<String>,
    authority: Option<String>,
    method: Option<String>,
    path: Option<String>,
    cluster: Option<String>,
    route: Option<String>,
    upstream: Option<String>,
    response_code: Option<u16>,
    response_flags: String,
    details: Option<String>,
    bytes_received: u64,
    bytes_sent: u64,
    duration_ms: f64,
}

const HEADS: [&str; 11] = [
    "TIME (UTC)",
    "POD",
    "WHAT",
    "CODE",
    "FLAGS",
    "CLUSTER",
    "UPSTREAM",
    "SENT",
    "RECEIVED",
    "MS",
    "DETAILS",
];
/// So wide columns are from the start, so that most lines stand below each other.
const WIDTHS: [usize; HEADS.len()] = [12, 24, 40, 4, 5, 36, 20, 6, 8, 6, 0];
/// Of a cell; more is cut off.
const CELL_MAX: usize = 100;
/// Of the last one, which moves no other: why something failed stands at its end.
const DETAILS_MAX: usize = 1000;

#[derive(Debug)]
pub(super) struct FlowTable {
    widths: [usize; HEADS.len()],
}

impl FlowTable {
    /// The table, and its first line.
    pub(super) fn new() -> (Self, String) {
        let mut table = Self { widths: WIDTHS };
        let heads = table.line(HEADS.map(str::to_owned));
        (table, heads)
    }

    pub(super) fn row(&mut self, row: &Row) -> String {
        let failed = row.response_flags != NONE || row.response_code.is_some_and(|code| code >= 400);
        self.line([
            row.time.get(11..23).unwrap_or(&row.time).to_owned(),
            row.who(),
            row.what(),
            row.response_code.map_or_else(|| NONE.to_owned(), |code| code.to_string()),
            row.response_flags.clone(),
            row.led_to(),
            row.upstream.clone().unwrap_or_else(|| NONE.to_owned()),
            row.bytes_received.to_string(),
            row.bytes_sent.to_string(),
            format!("{:.1}", row.duration_ms),
            // Where all went well they say no more than that.
            row.details.clone().filter(|_| failed).unwrap_or_default(),
        ])
    }

    fn line(&mut self, cells: [String; HEADS.len()]) -> String {
        let [heads @ .., details] = &cells;
        let mut cells = heads.each_ref().map(|cell| shown(cell, CELL_MAX)).to_vec();
        cells.push(shown(details, DETAILS_MAX));
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.widths[HEADS.len() - 1] = 0;
        let cells = cells.iter().zip(self.widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    }
}

const NONE: &str = "-";

impl Row {
    /// The pod, or the identity that it showed.
    fn who(&self) -> String {
        match &self.principal {
            Some(principal) => principal.strip_prefix("spiffe://").unwrap_or(principal).to_owned(),
            None if self.pod.is_empty() => NONE.to_owned(),
            None => format!("{}/{}", self.namespace, self.pod),
        }
    }

    /// The cluster; where there was none, the route that answered.
    fn led_to(&self) -> String {
        match (&self.cluster, &self.route) {
            (Some(cluster), _) => cluster.clone(),
            (None, Some(route)) => format!("route {route}"),
            (None, None) => NONE.to_owned(),
        }
    }

    /// `GET example.com/path`, `TLS example.com`, `TCP 192.0.2.1:5432`.
    fn what(&self) -> String {
        let destination = &self.original_destination;
        match (&self.method, &self.server_name) {
            (Some(method), _) => {
                let authority = self.authority.as_ref().unwrap_or(destination);
                format!("{method} {authority}{}", self.path.as_deref().unwrap_or_default())
            }
            (None, Some(name)) => format!("TLS {name}"),
            (None, None) => format!("TCP {destination}"),
        }
    }
}

/// What clients send must not steer the terminal it is shown on.
fn shown(text: &str, characters_max: usize) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.chars().map(printable).take(characters_max).collect();
    if text.chars().nth(characters_max).is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Row {
        let start = r#""time":"2026-01-02T03:04:05.678Z","source":"10.0.0.1:4000","originalDestination":"192.0.2.1:80","#;
        let text = format!("{{{start}{json}}}");
        match serde_json::from_str(&text).unwrap() {
            Line::Ended(row) => *row,
            Line::Lost { lost } => panic!("{lost}"),
        }
    }

    #[test]
    fn columns_stay_aligned_and_grow() {
        let (mut table, heads) = FlowTable::new();
        let request = row(
            r#""kind":"request","namespace":"shop","pod":"cart","method":"GET","authority":"httpbin.org","path":"/delay/5",
            "cluster":"outbound|80||httpbin.org","upstream":"192.0.2.9:80","responseCode":504,"responseFlags":"UT",
            "details":"response_timeout","bytesReceived":0,"bytesSent":24,"durationMs":3000.4"#,
        );
        let first = table.row(&request);
        for (head, cell) in
            [("POD", "shop/cart"), ("WHAT", "GET httpbin.org/delay/5"), ("CODE", "504"), ("DETAILS", "resp")]
        {
            assert_eq!(heads.find(head), first.find(cell), "{head}\n{heads}{first}");
        }
        assert!(first.starts_with("03:04:05.678   "), "{first}");
        let long = Row { authority: Some("x".repeat(90)), ..request };
        let wide = table.row(&long);
        let after = table.row(&long);
        assert_eq!(wide, after);
        assert!(wide.len() > first.len());
    }

    #[test]
    fn what_is_no_request_and_what_must_not_be_shown() {
        let (mut table, _) = FlowTable::new();
        let end = r#""responseFlags":"-","bytesReceived":1,"bytesSent":2,"durationMs":0.05,"details":"via_upstream""#;
        let opaque = table.row(&row(&format!(r#""kind":"connection",{end}"#)));
        assert!(
            opaque.contains("   TCP 192.0.2.1:80   ")
                && opaque.contains("   -   ")
                && !opaque.contains("via_upstream"),
            "{opaque}"
        );
        let named =
            table.row(&row(&format!(r#""kind":"connection","serverName":"a\u001b[2J.example.com",{end}"#)));
        assert!(named.contains("TLS a\u{fffd}[2J.example.com"), "{named}");
        let long = format!(r#""kind":"request","method":"GET","path":"/{}",{end}"#, "é".repeat(200));
        let long = table.row(&row(&long));
        assert!(long.contains("é…  ") && long.chars().count() < 300, "{long}");
        let reason = "x".repeat(200) + ": refused";
        let end = end.replace("via_upstream", &reason).replace(r#":"-""#, r#":"UF""#);
        let failed = table.row(&row(&format!(r#""kind":"connection",{end}"#)));
        assert!(failed.ends_with(": refused\n"), "{failed}");
        assert!(matches!(serde_json::from_str(r#"{"lost":7}"#), Ok(Line::Lost { lost: 7 })));
    }
}
