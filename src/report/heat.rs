//! Heat maps with one column per step and one row per turn index.

use std::fmt::Write;

use crate::report::plot::{open_svg, range, ticks, Size, MARGIN, WIDTH};
use crate::report::style::HEAT_LEVELS;
use crate::report::text::{escape, number};

/// The largest number of columns; neighbouring steps of longer runs are averaged.
const MOST_COLUMNS: usize = 150;
/// Space for the scale on the right, in pixels.
const RIGHT: f64 = 70.0;

/// One step's values by turn index.
pub(crate) type Column = (f64, Vec<f64>);

/// The place of a turn's entropy relative to the band.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Unknown,
    Below,
    Inside,
    Above,
}

impl Place {
    /// The place of a [`distance`].
    fn of(distance: f64) -> Self {
        match distance {
            d if d.is_nan() => Self::Unknown,
            d if d < 0.0 => Self::Below,
            d if d > 1.0 => Self::Above,
            _ => Self::Inside,
        }
    }
}

/// Draws values by turn and step; higher values have stronger colours.
pub(crate) fn value_map(title: &str, y_label: &str, columns: &[Column]) -> String {
    let columns = thinned(columns);
    let values = || columns.iter().flat_map(|c| &c.1).copied().filter(|v| v.is_finite());
    let Some((low, high)) = range(values()) else { return String::new() };
    let Some(map) = Map::new(&columns) else { return String::new() };
    let level = |value: f64| {
        let share = if high > low { (value - low) / (high - low) } else { 0.5 };
        (share * (HEAT_LEVELS - 1) as f64).round() as usize
    };
    let mut svg = map.open(title);
    for wanted in 0..HEAT_LEVELS {
        let here = |_: usize, value: f64| value.is_finite() && level(value) == wanted;
        map.cells(&mut svg, &columns, &format!("var(--h{wanted})"), here);
    }
    map.axes(&mut svg, &columns, y_label);
    map.scale(&mut svg, (low, high));
    format!("<figure><figcaption>{}</figcaption>{svg}</svg></figure>\n", escape(title))
}

/// Draws the place of each turn and step: below, inside or above the band, or without a reference.
///
/// `bands` holds the band's ends by turn index for each column.
pub(crate) fn band_map(
    title: &str,
    y_label: &str,
    columns: &[Column],
    bands: &[Vec<(f64, f64)>],
) -> String {
    let columns = thinned(&distances(columns, bands));
    let known = columns.iter().flat_map(|c| &c.1).any(|d| Place::of(*d) != Place::Unknown);
    let Some(map) = Map::new(&columns).filter(|_| known) else { return String::new() };
    let names = [
        (Place::Above, "above", "above the band"),
        (Place::Inside, "inside", "inside"),
        (Place::Below, "below", "below"),
        (Place::Unknown, "unknown", "no reference yet"),
    ];
    let mut svg = map.open(title);
    let mut legend = String::new();
    for (wanted, variable, name) in names {
        let here = |turn: usize, d: f64| turn < map.rows && Place::of(d) == wanted;
        map.cells(&mut svg, &columns, &format!("var(--{variable})"), here);
        let _ = write!(
            legend,
            "<span><svg class=\"swatch\" viewBox=\"0 0 20 12\"><rect y=\"1\" width=\"20\" \
             height=\"10\" fill=\"var(--{variable})\"/></svg>{name}</span>"
        );
    }
    map.axes(&mut svg, &columns, y_label);
    format!(
        "<figure><figcaption>{}</figcaption><div class=\"legend\">{legend}</div>{svg}</svg>\
         </figure>\n",
        escape(title)
    )
}

/// The [`distance`] of every value from its band.
fn distances(columns: &[Column], bands: &[Vec<(f64, f64)>]) -> Vec<Column> {
    let mut distances = Vec::new();
    for ((step, values), band) in columns.iter().zip(bands) {
        let ends = |turn: usize| band.get(turn).copied().unwrap_or((f64::NAN, f64::NAN));
        let of_turn = |(turn, h): (usize, &f64)| distance(*h, ends(turn));
        distances.push((*step, values.iter().enumerate().map(of_turn).collect()));
    }
    distances
}

/// (h − low)/(high − low): 0 at the band's lower end, 1 at its upper end; NaN without a band.
fn distance(h: f64, (low, high): (f64, f64)) -> f64 {
    let width = high - low;
    if width > 0.0 {
        (h - low) / width
    } else if h.is_nan() || width.is_nan() {
        f64::NAN
    } else if h == low {
        // A band of width 0: its single value is inside.
        0.5
    } else {
        f64::INFINITY.copysign(h - low)
    }
}

/// Averages neighbouring columns under their first step, so that at most [`MOST_COLUMNS`] remain.
fn thinned(columns: &[Column]) -> Vec<Column> {
    let group = columns.len().div_ceil(MOST_COLUMNS).max(1);
    let mean = |columns: &[Column]| {
        let rows = columns.iter().map(|c| c.1.len()).max().unwrap_or(0);
        let of_row = |row: usize| {
            let values = columns.iter().filter_map(|c| c.1.get(row)).filter(|v| !v.is_nan());
            let (sum, n) = values.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
            if n > 0.0 {
                sum / n
            } else {
                f64::NAN
            }
        };
        (columns[0].0, (0..rows).map(of_row).collect())
    };
    columns.chunks(group).map(mean).collect()
}

/// The layout of a heat map's cells.
struct Map {
    rows: usize,
    width: f64,
    height: f64,
}

impl Map {
    fn new(columns: &[Column]) -> Option<Self> {
        let rows = columns.iter().map(|c| c.1.len()).max().filter(|rows| *rows > 0)?;
        let width = (WIDTH - MARGIN.0 - RIGHT) / columns.len() as f64;
        Some(Self { rows, width, height: (220.0 / rows as f64).min(26.0) })
    }

    fn base(&self) -> f64 {
        MARGIN.2 + self.height * self.rows as f64
    }

    fn open(&self, title: &str) -> String {
        open_svg(Size { width: WIDTH, height: self.base() + MARGIN.3 }, title)
    }

    /// Draws the cells that are `here` as one path; neighbours in a row become one rectangle.
    fn cells(
        &self,
        svg: &mut String,
        columns: &[Column],
        colour: &str,
        here: impl Fn(usize, f64) -> bool,
    ) {
        let mut path = String::new();
        for row in 0..self.rows {
            let drawn = |i: usize| columns[i].1.get(row).is_some_and(|value| here(row, *value));
            let mut i = 0;
            while i < columns.len() {
                let n = (i..columns.len()).take_while(|&j| drawn(j)).count();
                if n > 0 {
                    let x = MARGIN.0 + i as f64 * self.width;
                    let y = MARGIN.2 + row as f64 * self.height;
                    let w = n as f64 * self.width;
                    let h = self.height;
                    let _ = write!(path, "M{x:.1} {y:.1}h{w:.1}v{h:.1}h-{w:.1}z");
                }
                i += n.max(1);
            }
        }
        if !path.is_empty() {
            let _ = write!(
                svg,
                "<path shape-rendering=\"crispEdges\" fill=\"{colour}\" d=\"{path}\"/>"
            );
        }
    }

    fn axes(&self, svg: &mut String, columns: &[Column], y_label: &str) {
        let (left, _, top, _) = MARGIN;
        for row in (0..self.rows).step_by(self.rows.div_ceil(10)) {
            let y = top + (row as f64 + 0.5) * self.height + 3.5;
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{row}</text>",
                left - 6.0
            );
        }
        let first = columns[0].0;
        let last = columns[columns.len() - 1].0;
        // The first column at or after each round step.
        for tick in ticks(first, last.max(first + 1.0), 8, true) {
            let Some(i) = columns.iter().position(|(step, _)| *step >= tick) else { continue };
            let x = left + (i as f64 + 0.5) * self.width;
            let y = self.base() + 15.0;
            let step = number(tick);
            let _ =
                write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{step}</text>");
        }
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">training step</text>\
             <text transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">\
             {}</text>",
            left + columns.len() as f64 * self.width / 2.0,
            self.base() + 34.0,
            (top + self.base()) / 2.0,
            escape(y_label)
        );
    }

    fn scale(&self, svg: &mut String, (low, high): (f64, f64)) {
        let top = MARGIN.2;
        let base = self.base();
        let x = WIDTH - 58.0;
        let part = (base - top) / HEAT_LEVELS as f64;
        for level in 0..HEAT_LEVELS {
            let y = base - (level + 1) as f64 * part;
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"{y:.2}\" width=\"10\" height=\"{:.2}\" \
                 fill=\"var(--h{level})\"/>",
                part + 0.3
            );
        }
        for (y, value) in [(top + 8.0, high), (base, low)] {
            let _ = write!(svg, "<text x=\"{}\" y=\"{y:.1}\">{}</text>", x + 14.0, number(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of cells drawn in a colour, from the widths of its rectangles.
    fn cells(svg: &str, variable: &str, columns: usize) -> usize {
        let Some((_, rest)) = svg.split_once(&format!("fill=\"var(--{variable})\" d=\"")) else {
            return 0;
        };
        let width = (WIDTH - MARGIN.0 - RIGHT) / columns as f64;
        let rectangles = rest.split('"').next().unwrap().split('z').filter(|r| !r.is_empty());
        let cells = |r: &str| {
            let w: f64 = r.split('h').nth(1).unwrap().split('v').next().unwrap().parse().unwrap();
            (w / width).round() as usize
        };
        rectangles.map(cells).sum()
    }

    #[test]
    fn turns_are_placed_below_inside_and_above_their_band() {
        let columns = vec![
            (0.0, vec![1.0, 1.0]),
            (1.0, vec![0.4, 0.5, 1.5, 1.6]),
            (2.0, vec![0.1, f64::NAN]),
        ];
        let none = (f64::NAN, f64::NAN);
        let bands = vec![vec![none; 2], vec![(0.5, 1.5); 4], vec![(0.5, 1.5); 2]];
        let svg = band_map("t", "turn", &columns, &bands);
        let counts = ["below", "inside", "above", "unknown"].map(|name| cells(&svg, name, 3));
        assert_eq!(counts, [2, 2, 1, 3]);
        assert_eq!(band_map("t", "turn", &columns[..1], &bands[..1]), "", "no reference at all");
    }

    #[test]
    fn the_highest_value_has_the_strongest_colour_and_long_runs_are_averaged() {
        let columns: Vec<Column> =
            (0..300).map(|k| (f64::from(k), vec![f64::from(k), f64::NAN])).collect();
        let thin = thinned(&columns);
        assert_eq!((thin.len(), thin[1].0, thin[1].1[0]), (150, 2.0, 2.5));
        assert!(thin[0].1[1].is_nan());
        let svg = value_map("t", "turn", &[(0.0, vec![0.0]), (1.0, vec![1.0]), (2.0, vec![1.0])]);
        assert_eq!((cells(&svg, "h0", 3), cells(&svg, "h11", 3)), (1, 2));
        assert_eq!(value_map("t", "turn", &[(0.0, vec![f64::NAN])]), "");
    }
}
