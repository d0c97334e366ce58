//! An SVG picture of success and entropy, for a README or a paper.
//!
//! Unlike the page, a picture is opened by programs that know no CSS variables. It therefore holds
//! plain colours for light screens, and rules that replace them on dark screens where a viewer
//! supports media queries. A card behind the plots keeps it legible on any page.

use std::fmt::Write;
use std::path::Path;

use crate::report::data::Run;
use crate::report::figures::{entropy_plot, evaluation_plots, turns_plot};
use crate::report::plot::{swatch, Plot, Series, Size};
use crate::report::style::{light_colours, picture_style};
use crate::report::text::escape;
use crate::Result;

/// Width of the picture, in pixels.
const WIDTH: f64 = 900.0;
/// Space around and between the plots.
const GAP: f64 = 16.0;
/// Size of one plot.
const PLOT: Size = Size { width: (WIDTH - 3.0 * GAP) / 2.0, height: 260.0 };
/// Height of a plot's title and of one line of its legend.
const TITLE: f64 = 24.0;
const LEGEND_LINE: f64 = 18.0;
/// Average width of a character of the legend.
const CHARACTER: f64 = 6.4;

/// Renders success with its 95 % intervals, entropy with its band, and entropy early and late in
/// the episodes as one SVG picture.
///
/// The picture is 900 pixels wide, without scripts and external files. Runs given together share
/// their plots, with one plot of success per evaluation set.
///
/// # Errors
/// [`Error::Setting`](crate::Error::Setting) without runs;
/// [`Error::File`](crate::Error::File) for a line that is not the expected JSON;
/// [`Error::Io`](crate::Error::Io).
pub fn render_svg<P: AsRef<Path>>(runs: &[P]) -> Result<String> {
    let runs = Run::read_all(runs)?;
    let mut plots = evaluation_plots(&runs, "Success", "success", "share of episodes solved", 1.0);
    plots.extend([entropy_plot(&runs), turns_plot(&runs)]);
    plots.retain(|plot| !plot.is_empty());
    Ok(render(plots))
}

fn render(plots: Vec<Plot>) -> String {
    let plots: Vec<Plot> = plots.into_iter().map(|plot| Plot { size: PLOT, ..plot }).collect();
    let mut body = String::new();
    let mut y = GAP;
    for row in plots.chunks(2) {
        let legends: Vec<(String, usize)> = row.iter().map(|plot| legend(&plot.series)).collect();
        let lines = legends.iter().map(|(_, lines)| *lines).max().unwrap_or(0);
        let top = TITLE + lines as f64 * LEGEND_LINE;
        for (i, (plot, (legend, _))) in row.iter().zip(&legends).enumerate() {
            let x = GAP + i as f64 * (PLOT.width + GAP);
            let _ = writeln!(
                body,
                "<g transform=\"translate({x} {y})\"><text class=\"title\" y=\"14\">{}</text>\
                 <g transform=\"translate(0 {TITLE})\">{legend}</g>\
                 <g transform=\"translate(0 {top})\">{}</g></g>",
                escape(&plot.title),
                plot.drawing()
            );
        }
        y += top + PLOT.height + GAP;
    }
    frame(&body, y)
}

/// The picture around its plots.
fn frame(body: &str, height: f64) -> String {
    let card = format!(
        "<rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"var(--card)\" \
         stroke=\"var(--edge)\"/>",
        WIDTH - 1.0,
        height - 1.0
    );
    let drawing = format!("{card}\n{body}");
    let style = picture_style(&drawing);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Success and entropy over \
         training steps\">\n<style>{style}</style>\n{}</svg>\n",
        light_colours(&drawing)
    )
}

/// The legend of a plot and its number of lines.
fn legend(series: &[Series]) -> (String, usize) {
    let mut svg = String::new();
    let mut x = 0.0;
    let mut line = 0;
    for s in series.iter().filter(|s| !s.name.is_empty()) {
        let width = 26.0 + CHARACTER * s.name.chars().count() as f64 + 14.0;
        if x > 0.0 && x + width > PLOT.width {
            x = 0.0;
            line += 1;
        }
        let _ = write!(
            svg,
            "<g transform=\"translate({x:.1} {})\">{}<text x=\"26\" y=\"10\">{}</text></g>",
            line as f64 * LEGEND_LINE,
            swatch(s),
            escape(&s.name)
        );
        x += width;
    }
    (svg, line + 1)
}
