//! Line plots as SVG text, without scripts and font files.

use std::fmt::Write;

use crate::report::text::{escape, number};

/// Width of a drawing on the page, in pixels.
pub(crate) const WIDTH: f64 = 560.0;
/// Space around the plotted area: left, right, top, bottom.
pub(crate) const MARGIN: (f64, f64, f64, f64) = (58.0, 14.0, 12.0, 42.0);

/// A line plot of several series over steps.
#[derive(Debug, Default)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
    /// A vertical range that is always shown, for example [0, 1] for a rate.
    pub(crate) at_least: Option<(f64, f64)>,
    /// Steps of alarms and their messages.
    pub(crate) alarms: Vec<(f64, String)>,
    pub(crate) size: Size,
}

/// Width and height of a drawing, in pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Default for Size {
    fn default() -> Self {
        Self { width: WIDTH, height: 300.0 }
    }
}

/// One line, with whiskers or a band around it if it has intervals.
#[derive(Debug, Default, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    pub(crate) look: Look,
    /// (step, value); a non-finite value is a gap.
    pub(crate) points: Vec<(f64, f64)>,
    /// (step, low, high).
    pub(crate) intervals: Vec<(f64, f64, f64)>,
    /// Horizontal offset in pixels, so that dots and whiskers of several series do not overlap.
    pub(crate) aside: f64,
}

/// The drawing style of a series.
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

/// The ranges of both axes and the map from data to pixels.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    size: Size,
}

impl Plot {
    /// True if there is nothing to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.extent().is_none()
    }

    /// The figure: title, legend, drawing, note.
    pub(crate) fn html(&self) -> String {
        let mut legend = String::new();
        for s in self.series.iter().filter(|s| !s.name.is_empty()) {
            let swatch = swatch(s);
            let _ = write!(
                legend,
                "<span><svg class=\"swatch\" viewBox=\"0 0 20 12\">{swatch}</svg>{}</span>",
                escape(&s.name)
            );
        }
        let note = if self.note.is_empty() {
            String::new()
        } else {
            format!("<p>{}</p>", escape(&self.note))
        };
        let title = escape(&self.title);
        let svg = self.svg();
        format!(
            "<figure><figcaption>{title}</figcaption><div class=\"legend\">{legend}</div>\
             {svg}{note}</figure>\n"
        )
    }

    /// The drawing as an SVG element.
    fn svg(&self) -> String {
        open_svg(self.size, &self.title) + &self.drawing() + "</svg>"
    }

    /// The contents of the drawing, without the SVG element around them.
    pub(crate) fn drawing(&self) -> String {
        let Some(frame) = self.extent() else { return String::new() };
        let mut svg = String::new();
        frame.axes(&mut svg, &self.y_label);
        for look in [Look::Area, Look::Faint, Look::Dashed, Look::Line, Look::Dots] {
            for series in self.series.iter().filter(|s| s.look == look) {
                frame.series(&mut svg, series);
            }
        }
        for (step, message) in &self.alarms {
            frame.alarm(&mut svg, *step, message);
        }
        svg
    }

    fn extent(&self) -> Option<Frame> {
        let points = self.series.iter().flat_map(|s| &s.points).copied();
        let ends =
            self.series.iter().flat_map(|s| &s.intervals).flat_map(|&(x, a, b)| [(x, a), (x, b)]);
        let shown: Vec<(f64, f64)> = points.chain(ends).filter(|(_, y)| y.is_finite()).collect();
        let mut x = range(shown.iter().map(|p| p.0))?;
        let mut y = range(shown.iter().map(|p| p.1))?;
        if let Some((low, high)) = self.at_least {
            y = (y.0.min(low), y.1.max(high));
        }
        if x.0 == x.1 {
            x = (x.0 - 0.5, x.1 + 0.5);
        }
        let room = if y.0 == y.1 { 0.1 * y.0.abs().max(1e-6) } else { 0.04 * (y.1 - y.0) };
        let zero = y.0 >= 0.0 && y.0 - room < 0.0;
        let low = if zero { 0.0 } else { y.0 - room };
        Some(Frame { x, y: (low, y.1 + room), size: self.size })
    }
}

impl Frame {
    fn px(&self, x: f64) -> f64 {
        let (left, right, _, _) = MARGIN;
        left + (x - self.x.0) / (self.x.1 - self.x.0) * (self.size.width - left - right)
    }

    fn py(&self, y: f64) -> f64 {
        let (_, _, top, bottom) = MARGIN;
        let height = self.size.height;
        height - bottom - (y - self.y.0) / (self.y.1 - self.y.0) * (height - top - bottom)
    }

    fn axes(&self, svg: &mut String, y_label: &str) {
        let (left, right, top, bottom) = MARGIN;
        let edge = self.size.width - right;
        let base = self.size.height - bottom;
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
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                self.px(t),
                base + 15.0,
                number(t)
            );
        }
        let middle = top + (base - top) / 2.0;
        let _ = write!(
            svg,
            "<line class=\"axis\" x1=\"{left}\" y1=\"{base}\" x2=\"{edge}\" y2=\"{base}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">training step</text>\
             <text transform=\"translate(13 {middle:.1}) rotate(-90)\" \
             text-anchor=\"middle\">{}</text>",
            left + (edge - left) / 2.0,
            self.size.height - 8.0,
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

    /// Draws one polyline per stretch without gaps; a stretch of one point becomes a dot.
    fn lines(&self, svg: &mut String, s: &Series, style: &str) {
        for stretch in s.points.split(|(_, y)| !y.is_finite()).filter(|p| !p.is_empty()) {
            if let [(x, y)] = stretch {
                let _ = write!(
                    svg,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"{}\"/>",
                    self.px(*x) + s.aside,
                    self.py(*y),
                    s.colour
                );
                continue;
            }
            let path: Vec<String> = stretch
                .iter()
                .map(|&(x, y)| format!("{:.1},{:.1}", self.px(x) + s.aside, self.py(y)))
                .collect();
            let colour = s.colour;
            let path = path.join(" ");
            let _ = write!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" {style} points=\"{path}\"/>"
            );
        }
    }

    fn dots(&self, svg: &mut String, s: &Series) {
        for &(x, low, high) in s.intervals.iter().filter(|i| i.1.is_finite() && i.2.is_finite()) {
            let left = self.px(x) + s.aside - 4.0;
            let low = self.py(low);
            let high = self.py(high);
            let cap = format!("M{left:.1} {low:.1}h8m-4 0V{high:.1}m-4 0h8");
            let _ = write!(
                svg,
                "<path d=\"{cap}\" fill=\"none\" stroke=\"{}\" opacity=\"0.7\"/>",
                s.colour
            );
        }
        for &(x, y) in s.points.iter().filter(|p| p.1.is_finite()) {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.2\" fill=\"{}\">\
                 <title>{}: step {}, {}</title></circle>",
                self.px(x) + s.aside,
                self.py(y),
                s.colour,
                escape(&s.name),
                number(x),
                number(y)
            );
        }
    }

    /// Draws a line across the plot with a flag at its top.
    fn alarm(&self, svg: &mut String, step: f64, message: &str) {
        if step < self.x.0 || step > self.x.1 {
            return;
        }
        let x = self.px(step);
        let (_, _, top, bottom) = MARGIN;
        let base = self.size.height - bottom;
        let _ = write!(
            svg,
            "<line class=\"alarm\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{base}\"/>\
             <path class=\"flag\" d=\"M{x:.1} {top}l-4.5 -7h9z\"><title>{}</title></path>",
            escape(message)
        );
    }

    fn area(&self, svg: &mut String, s: &Series) {
        let finite: Vec<_> =
            s.intervals.iter().filter(|i| i.1.is_finite() && i.2.is_finite()).collect();
        let point = |x: f64, y: f64| format!("{:.1},{:.1}", self.px(x), self.py(y));
        let upper = finite.iter().map(|i| point(i.0, i.2));
        let lower = finite.iter().rev().map(|i| point(i.0, i.1));
        let points: Vec<String> = upper.chain(lower).collect();
        let colour = s.colour;
        let points = points.join(" ");
        let _ = write!(svg, "<polygon fill=\"{colour}\" opacity=\"0.12\" points=\"{points}\"/>");
    }
}

/// The opening tag of a drawing.
pub(crate) fn open_svg(size: Size, label: &str) -> String {
    let Size { width, height } = size;
    format!(
        "<svg viewBox=\"0 0 {width} {height:.0}\" role=\"img\" aria-label=\"{}\">",
        escape(label)
    )
}

/// The sample of a series in a legend, 20 by 12 pixels.
pub(crate) fn swatch(s: &Series) -> String {
    let colour = s.colour;
    let line = format!("<path d=\"M0 6h20\" stroke=\"{colour}\" stroke-width=\"2\"");
    match s.look {
        Look::Area => {
            format!("<rect y=\"1\" width=\"20\" height=\"10\" fill=\"{colour}\" opacity=\"0.2\"/>")
        }
        Look::Dashed => format!("{line} stroke-dasharray=\"5 3\"/>"),
        Look::Dots => {
            format!("{line}/><circle cx=\"10\" cy=\"6\" r=\"3.5\" fill=\"{colour}\"/>")
        }
        Look::Faint => format!("{line} opacity=\"0.4\"/>"),
        Look::Line => format!("{line}/>"),
    }
}

/// About `wanted` round tick positions (1, 2 or 5 × 10ᵏ apart) between `low` and `high`.
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
    fn higher_values_are_drawn_higher_and_later_steps_further_right() {
        let size = Size::default();
        let frame = Frame { x: (0.0, 10.0), y: (0.0, 1.0), size };
        assert_eq!((frame.px(0.0), frame.px(10.0)), (MARGIN.0, size.width - MARGIN.1));
        assert_eq!((frame.py(0.0), frame.py(1.0)), (size.height - MARGIN.3, MARGIN.2));
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
