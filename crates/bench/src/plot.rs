//! Bars as an SVG: text alone, no scripts, nothing from elsewhere. Pure.

use std::fmt::Write;

/// One bar.
#[derive(Clone, PartialEq, Debug)]
pub struct Bar {
    /// What was measured.
    pub label: String,
    /// Bytes a second.
    pub rate: f64,
}

/// Lengths in the picture's own units.
const WIDTH: f64 = 900.0;
const LABELS: f64 = 380.0;
const BARS: f64 = 400.0;
const ROW: f64 = 26.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 18.0;
/// Longer labels are cut, so that they stay beside the bars.
const MAX_LABEL: usize = 56;
/// Most bars; more would be no picture.
const MAX_BARS: usize = 200;
/// The colours of bars with neighbours told apart on paper too.
const FILL: [&str; 2] = ["#33658a", "#86bbd8"];

/// A picture of rates in GB/s under a title.
#[must_use]
pub fn svg(title: &str, bars: &[Bar]) -> String {
    let bars = &bars[..bars.len().min(MAX_BARS)];
    let largest = bars.iter().map(|bar| sane(bar.rate)).fold(0.0, f64::max);
    let rows = u32::try_from(bars.len()).unwrap_or(0);
    let height = TOP + ROW * f64::from(rows) + BOTTOM;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{title}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"26\" font-size=\"17\">{title}</text>\n\
         <text x=\"{LABELS}\" y=\"46\" fill=\"#555555\">GB/s</text>",
        title = escaped(title),
    );
    for (number, bar) in (0..rows).zip(bars) {
        let top = TOP + ROW * f64::from(number);
        let rate = sane(bar.rate);
        let length = match largest > 0.0 {
            true => (rate / largest * BARS).max(1.0),
            false => 1.0,
        };
        let fill = FILL[(number % 2) as usize];
        let (middle, left, right) = (top + 14.0, LABELS - 10.0, LABELS + length + 8.0);
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{middle}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{LABELS}\" y=\"{top}\" width=\"{length:.1}\" height=\"18\" fill=\"{fill}\"/>\n\
             <text x=\"{right:.1}\" y=\"{middle}\">{rate}</text>",
            label = escaped(&cut(&bar.label)),
            rate = gigabytes(rate),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn sane(rate: f64) -> f64 {
    match rate.is_finite() {
        true => rate.max(0.0),
        false => 0.0,
    }
}

/// Three digits that count.
fn gigabytes(rate: f64) -> String {
    let value = rate / 1e9;
    match value {
        0.1.. => format!("{value:.2}"),
        0.01..0.1 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

fn cut(label: &str) -> String {
    match label.chars().count() > MAX_LABEL {
        true => label.chars().take(MAX_LABEL - 1).chain(['…']).collect(),
        false => label.to_owned(),
    }
}

/// Text as XML takes it: marks escaped, and no character that XML 1.0 does not have (section 2.2).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            character if character.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Bar, svg};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    fn bar(label: &str, rate: f64) -> Bar {
        Bar {
            label: label.to_owned(),
            rate,
        }
    }

    /// Whether the text is elements that open and close in turn, with quoted attributes and no bare
    /// marks: all that this writer ever writes.
    fn is_well_formed(text: &str) -> bool {
        let Some(mut rest) = text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
        else {
            return false;
        };
        let mut open: Vec<&str> = Vec::new();
        while let Some(at) = rest.find('<') {
            if rest[..at].contains('>') {
                return false;
            }
            let Some(end) = rest[at..].find('>') else {
                return false;
            };
            let tag = &rest[at + 1..at + end];
            if tag.matches('"').count() % 2 != 0 {
                return false;
            }
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default());
            }
            rest = &rest[at + end + 1..];
        }
        open.is_empty() && rest == "\n"
    }

    #[test]
    fn a_bar_is_as_long_as_its_rate_against_the_largest() {
        let picture = svg("bench", &[bar("hash", 4e9), bar("link", 1e9)]);
        assert!(is_well_formed(&picture), "{picture}");
        assert!(picture.contains("width=\"400.0\"") && picture.contains("width=\"100.0\""));
        assert!(picture.contains(">4.00</text>") && picture.contains(">1.00</text>"));
    }

    #[test]
    fn names_are_text_and_nothing_else() {
        let picture = svg(
            "<script>alert(1)</script>",
            &[bar("a\"><image href='x'/>&\u{1b}\0", 1.0)],
        );
        assert!(is_well_formed(&picture), "{picture}");
        for what in ["<script", "<image", "href=", "\u{1b}", "\0"] {
            let told = what == "href=";
            assert_eq!(picture.contains(what), told, "{what} in {picture}");
        }
        assert!(picture.contains("&lt;script&gt;"));
    }

    #[test]
    fn rates_that_are_none_make_no_odd_numbers() {
        let bars = [bar("a", f64::NAN), bar("b", f64::INFINITY), bar("c", -1.0)];
        let picture = svg("x", &bars);
        assert!(is_well_formed(&picture));
        assert!(!picture.contains("NaN") && !picture.contains("inf") && !picture.contains("\"-"));
    }

    #[test]
    fn nothing_measured_is_a_picture_too() {
        assert!(is_well_formed(&svg("x", &[])));
    }

    proptest! {
        #[test]
        fn any_names_and_rates_make_a_well_formed_picture(
            title in any::<String>(),
            bars in proptest::collection::vec((any::<String>(), any::<f64>()), 0..8),
        ) {
            let bars: Vec<Bar> = bars.iter().map(|(label, rate)| bar(label, *rate)).collect();
            let picture = svg(&title, &bars);
            prop_assert!(is_well_formed(&picture));
            // Title, axis, and for each bar its label and its rate.
            prop_assert_eq!(picture.matches("<text ").count(), 2 + 2 * bars.len());
            let is_text = |c: char| c == '\n' || !c.is_control();
            prop_assert!(picture.chars().all(is_text));
        }
    }
}
