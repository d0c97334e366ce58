//! Line plots and heat maps as SVG text: no dependency, no script, no font file.

use std::fmt::Write;

use crate::report::escape;

pub(crate) const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
/// Left, right, top, bottom.
pub(crate) const MARGIN: (f64, f64, f64, f64) = (58.0, 14.0, 12.0, 42.0);

/// A line plot of several series over steps.
#[derive(Debug, Default)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
    /// The vertical range to show at least, as [0, 1] for a rate.
    pub(crate) at_least: Option<(f64, f64)>,
    /// Steps at which something was raised, and what.
    pub(crate) alarms: Vec<(f64, String)>,
}

/// One line, with whiskers or a band around it where it has any.
#[derive(Debug, Default, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    pub(crate) look: Look,
    /// (step, value); a non-finite value is a gap.
    pub(crate) points: Vec<(f64, f64)>,
    /// (step, low, high).
    pub(crate) intervals: Vec<(f64, f64, f64)>,
    /// Pixels that dots and whiskers are moved by, so that those of several series stand beside each other.
    pub(crate) aside: f64,
}

/// How a series is drawn.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) enum Look {
    /// A line.
    #[default]
    Line,
    /// A pale line behind the others.
    Faint,
    /// A dashed line.
    Dashed,
    /// A line through dots with whiskers.
    Dots,
    /// Only the area between the interval ends.
    Area,
}

/// Maps data to pixels.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Plot {
    /// Whether there is anything to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.extent().is_none()
    }

    /// The figure: title, legend, drawing, note.
    pub(crate) fn html(&self) -> String {
        let mut legend = String::new();
        for s in self.series.iter().filter(|s| !s.name.is_empty()) {
            let _ = write!(legend, "<span>{}{}</span>", swatch(s), escape(&s.name));
        }
        let note = if self.note.is_empty() {
            String::new()
        } else {
            format!("<p>{}</p>", escape(&self.note))
        };
        format!(
            "<figure><figcaption>{}</figcaption><div class=\"legend\">{legend}</div>{}{note}</figure>\n",
            escape(&self.title),
            self.svg()
        )
    }

    /// The drawing.
    pub(crate) fn svg(&self) -> String {
        let Some(frame) = self.extent() else { return String::new() };
        let mut svg = open_svg(HEIGHT, &self.title);
        frame.axes(&mut svg, &self.y_label);
        for look in [Look::Area, Look::Faint, Look::Dashed, Look::Line, Look::Dots] {
            self.series.iter().filter(|s| s.look == look).for_each(|s| frame.series(&mut svg, s));
        }
        self.alarms.iter().for_each(|(step, what)| frame.alarm(&mut svg, *step, what));
        svg + "</svg>"
    }

    fn extent(&self) -> Option<Frame> {
        let points = self.series.iter().flat_map(|s| &s.points).copied();
        let ends =
            self.series.iter().flat_map(|s| &s.intervals).flat_map(|&(x, a, b)| [(x, a), (x, b)]);
        let shown: Vec<(f64, f64)> = points.chain(ends).filter(|(_, y)| y.is_finite()).collect();
        let (mut x, mut y) = (range(shown.iter().map(|p| p.0))?, range(shown.iter().map(|p| p.1))?);
        if let Some((low, high)) = self.at_least {
            y = (y.0.min(low), y.1.max(high));
        }
        if x.0 == x.1 {
            x = (x.0 - 0.5, x.1 + 0.5);
        }
        let room = if y.0 == y.1 { 0.1 * y.0.abs().max(1e-6) } else { 0.04 * (y.1 - y.0) };
        let zero = y.0 >= 0.0 && y.0 - room < 0.0;
        Some(Frame { x, y: (if zero { 0.0 } else { y.0 - room }, y.1 + room) })
    }
}

impl Frame {
    fn px(&self, x: f64) -> f64 {
        let (left, right, _, _) = MARGIN;
        left + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - left - right)
    }

    fn py(&self, y: f64) -> f64 {
        let (_, _, top, bottom) = MARGIN;
        HEIGHT - bottom - (y - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - top - bottom)
    }

    fn axes(&self, svg: &mut String, y_label: &str) {
        let (left, right, top, bottom) = MARGIN;
        let (edge, base) = (WIDTH - right, HEIGHT - bottom);
        for t in ticks(self.y.0, self.y.1, 6, false) {
            let y = self.py(t);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{edge}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 6.0,
                y + 3.5,
                number(t)
            );
        }
        for t in ticks(self.x.0, self.x.1, 8, true) {
            let (x, below) = (self.px(t), base + 15.0);
            let _ = write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>",
                number(t)
            );
        }
        let middle = top + (base - top) / 2.0;
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{left}\" y1=\"{base}\" x2=\"{edge}\" y2=\"{base}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>\
             <text transform=\"translate(13 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            left + (edge - left) / 2.0,
            HEIGHT - 8.0,
            escape(y_label)
        );
    }

    fn series(&self, svg: &mut String, s: &Series) {
        match s.look {
            Look::Area => self.area(svg, s),
            Look::Dots => {
                self.lines(svg, s, "stroke-width=\"1.8\"");
                self.dots(svg, s);
            }
            Look::Faint => self.lines(svg, s, "stroke-width=\"1.2\" opacity=\"0.4\""),
            Look::Dashed => self.lines(svg, s, "stroke-width=\"1.4\" stroke-dasharray=\"5 4\""),
            Look::Line => self.lines(svg, s, "stroke-width=\"1.6\""),
        }
    }

    /// One polyline per stretch without gaps; a stretch of one point is a dot.
    fn lines(&self, svg: &mut String, s: &Series, style: &str) {
        for stretch in s.points.split(|(_, y)| !y.is_finite()).filter(|p| !p.is_empty()) {
            if let [(x, y)] = stretch {
                let (x, y) = (self.px(*x) + s.aside, self.py(*y));
                let _ = write!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{}\"/>",
                    s.colour
                );
                continue;
            }
            let path: Vec<String> = stretch
                .iter()
                .map(|&(x, y)| format!("{:.1},{:.1}", self.px(x) + s.aside, self.py(y)))
                .collect();
            let (colour, path) = (s.colour, path.join(" "));
            let _ = write!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" {style} points=\"{path}\"/>"
            );
        }
    }

    fn dots(&self, svg: &mut String, s: &Series) {
        for &(x, low, high) in s.intervals.iter().filter(|i| i.1.is_finite() && i.2.is_finite()) {
            let (x, low, high) = (self.px(x) + s.aside, self.py(low), self.py(high));
            let cap = format!("M{:.1} {low:.1}h8m-4 0V{high:.1}m-4 0h8", x - 4.0);
            let _ = write!(
                svg,
                "<path d=\"{cap}\" fill=\"none\" stroke=\"{}\" opacity=\"0.7\"/>",
                s.colour
            );
        }
        for &(x, y) in s.points.iter().filter(|p| p.1.is_finite()) {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.2\" fill=\"{}\"><title>{}: step {}, {}</title></circle>",
                self.px(x) + s.aside,
                self.py(y),
                s.colour,
                escape(&s.name),
                number(x),
                number(y)
            );
        }
    }

    /// A line across the plot and a flag at its top.
    fn alarm(&self, svg: &mut String, step: f64, what: &str) {
        if step < self.x.0 || step > self.x.1 {
            return;
        }
        let (x, top, base) = (self.px(step), MARGIN.2, HEIGHT - MARGIN.3);
        let _ = write!(
            svg,
            "<line class=\"alarm\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{base}\"/>\
             <path class=\"flag\" d=\"M{x:.1} {top}l-4.5 -7h9z\"><title>{}</title></path>",
            escape(what)
        );
    }

    fn area(&self, svg: &mut String, s: &Series) {
        let finite: Vec<_> =
            s.intervals.iter().filter(|i| i.1.is_finite() && i.2.is_finite()).collect();
        let point = |x: f64, y: f64| format!("{:.1},{:.1}", self.px(x), self.py(y));
        let upper = finite.iter().map(|i| point(i.0, i.2));
        let lower = finite.iter().rev().map(|i| point(i.0, i.1));
        let points: Vec<String> = upper.chain(lower).collect();
        let (colour, points) = (s.colour, points.join(" "));
        let _ = write!(svg, "<polygon fill=\"{colour}\" opacity=\"0.12\" points=\"{points}\"/>");
    }
}

pub(crate) fn open_svg(height: f64, label: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        escape(label)
    )
}

fn swatch(s: &Series) -> String {
    let (style, colour) = (s.look, s.colour);
    let shape = match style {
        Look::Area => {
            format!("<rect y=\"1\" width=\"20\" height=\"10\" fill=\"{colour}\" opacity=\"0.2\"/>")
        }
        Look::Dashed => {
            format!("<path d=\"M0 6h20\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"5 3\"/>")
        }
        Look::Dots => {
            format!(
                "<path d=\"M0 6h20\" stroke=\"{colour}\" stroke-width=\"2\"/><circle cx=\"10\" cy=\"6\" r=\"3.5\" fill=\"{colour}\"/>"
            )
        }
        Look::Faint => {
            format!("<path d=\"M0 6h20\" stroke=\"{colour}\" stroke-width=\"2\" opacity=\"0.4\"/>")
        }
        Look::Line => format!("<path d=\"M0 6h20\" stroke=\"{colour}\" stroke-width=\"2\"/>"),
    };
    format!("<svg class=\"swatch\" viewBox=\"0 0 20 12\">{shape}</svg>")
}

/// Round tick positions (1, 2 or 5 × 10ᵏ apart) inside [`low`, `high`], about `wanted` of them.
pub(crate) fn ticks(low: f64, high: f64, wanted: usize, whole: bool) -> Vec<f64> {
    let raw = (high - low) / wanted as f64;
    let power = 10f64.powf(raw.log10().floor());
    let factor =
        [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= raw * 0.999).unwrap_or(10.0);
    let step = if whole { (factor * power).max(1.0) } else { factor * power };
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A number short enough for a label.
pub(crate) fn number(x: f64) -> String {
    let size = x.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{x:.1e}");
    }
    let digits = if size >= 100.0 { 1 } else { 4 };
    let text = format!("{x:.digits$}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" {
        "0".to_owned()
    } else {
        short.to_owned()
    }
}

/// Smallest and largest value; `None` without values.
pub(crate) fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 5, false), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(-3.0, 46.0, 5, false), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(ticks(0.0, 3.0, 8, true), [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, -0.00001, 0.6000000000000001, 1.0, 123456.0, 1234.56, 2.5e9].map(number);
        assert_eq!(texts, ["0", "-1.0e-5", "0.6", "1", "123456", "1234.6", "2.5e9"]);
    }

    #[test]
    fn higher_values_are_drawn_higher_and_later_steps_further_right() {
        let frame = Frame { x: (0.0, 10.0), y: (0.0, 1.0) };
        assert_eq!((frame.px(0.0), frame.px(10.0)), (MARGIN.0, WIDTH - MARGIN.1));
        assert_eq!((frame.py(0.0), frame.py(1.0)), (HEIGHT - MARGIN.3, MARGIN.2));
    }

    #[test]
    fn a_gap_splits_the_line() {
        let points = [
            (0.0, 1.0),
            (1.0, 2.0),
            (2.0, f64::NAN),
            (3.0, 1.0),
            (4.0, 2.0),
            (5.0, f64::INFINITY),
            (6.0, 1.5),
        ];
        let plot = Plot {
            series: vec![Series { points: points.to_vec(), ..Series::default() }],
            ..Plot::default()
        };
        let svg = plot.svg();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 1));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn alarms_stand_at_their_steps_and_not_outside() {
        let series = vec![Series { points: vec![(0.0, 1.0), (10.0, 2.0)], ..Series::default() }];
        let alarms = vec![(5.0, "early <collapse>".to_owned()), (11.0, "blown up".to_owned())];
        let svg = Plot { series, alarms, ..Plot::default() }.svg();
        let middle = (MARGIN.0 + WIDTH - MARGIN.1) / 2.0;
        assert!(svg.contains(&format!("class=\"alarm\" x1=\"{middle:.1}\"")), "{svg}");
        assert!(svg.contains("early &lt;collapse&gt;") && !svg.contains("blown"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_empty() {
        assert!(Plot::default().is_empty());
    }
}
