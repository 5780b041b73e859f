//! What each row costs its proxy, as one picture: horizontal bars, a block for each workload.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 110.0;
const VALUE_WIDTH: f64 = 70.0;
const BAR_HEIGHT: f64 = 16.0;
const STEP: f64 = 20.0;
const TITLE_HEIGHT: f64 = 34.0;

/// A workload's bars: title, and each row's name and value.
pub(crate) type Block = (String, Vec<(String, f64)>);

/// An SVG document.
pub(crate) fn svg(blocks: &[Block]) -> String {
    let mut body = String::new();
    let mut y = 0.0;
    for (title, bars) in blocks {
        y += TITLE_HEIGHT;
        let title = escaped(title);
        push(
            &mut body,
            format_args!("<text x=\"0\" y=\"{:.0}\" font-weight=\"bold\">{title}</text>\n", y - 10.0),
        );
        let longest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (name, value) in bars {
            let width = value / longest * (WIDTH - LABEL_WIDTH - VALUE_WIDTH);
            let colour = if name == "interceptor" { "#2563eb" } else { "#94a3b8" };
            let (name, middle) = (escaped(name), y + BAR_HEIGHT - 4.0);
            push(
                &mut body,
                format_args!(
                    "<text x=\"0\" y=\"{middle:.0}\">{name}</text>\n<rect x=\"{LABEL_WIDTH}\" y=\"{y:.0}\" width=\"{width:.1}\" \
                     height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n<text x=\"{:.1}\" y=\"{middle:.0}\">{}</text>\n",
                    LABEL_WIDTH + width + 6.0,
                    shown(*value),
                ),
            );
            y += STEP;
        }
    }
    let height = y + STEP;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes what is written");
}

fn shown(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let blocks =
            [("a & b".to_owned(), vec![("interceptor".to_owned(), 5.0), ("envoy".to_owned(), 10.0)])];
        let svg = svg(&blocks);
        assert!(svg.contains("a &amp; b"), "{svg}");
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("fill=\"#"))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths, [290.0, 580.0], "{svg}");
    }
}
