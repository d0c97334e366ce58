//! Colours and style sheet of the page, for light and dark screens.
//!
//! Drawings name every colour as a CSS variable, such as `var(--s0)`. The page defines the
//! variables for light and for dark screens. A picture on its own, which programs without CSS
//! variables also open, gets the light values written into it ([`light_colours`]).

use std::fmt::Write;

/// Colours for light screens: page, then lines by series, levels of heat maps, places against the
/// band.
const LIGHT: &str =
    "--page:#fafafa;--card:#fff;--ink:#222;--soft:#666;--edge:#e2e2e2;--head:#f4f4f4;\
    --grid:#ececec;--axis:#999;--good:#17722c;--bad:#b3261e;--mark:#fff4d6;--agent:#eaf2fb;\
    --grey:#707070;--s0:#1f77b4;--s1:#e6550d;--s2:#2ca02c;--s3:#9467bd;--s4:#d62728;\
    --s5:#0e8a99;--s6:#8c564b;--s7:#d1559f;--s8:#6b6b6b;--s9:#8a8b12;--h0:#f1f6fb;--h1:#dfebf6;\
    --h2:#c9deef;--h3:#adcfe7;--h4:#8bbcdd;--h5:#66a6d0;--h6:#468fc2;--h7:#2f77b0;--h8:#1f5f9a;\
    --h9:#144a80;--h10:#0c3866;--h11:#06264a;--below:#2f77b0;--inside:#dde3d8;--above:#e6550d;\
    --unknown:#efefef;";

/// The same for dark screens.
const DARK: &str =
    "--page:#14171a;--card:#1d2125;--ink:#e4e6e8;--soft:#a3a9af;--edge:#343a40;--head:#262b30;\
    --grid:#2e3338;--axis:#7d858c;--good:#63c98a;--bad:#ff8a7d;--mark:#3d3515;--agent:#203247;\
    --grey:#a9a9a9;--s0:#6db3f2;--s1:#ff9b5a;--s2:#6fd08c;--s3:#c3a1ee;--s4:#ff7f7f;\
    --s5:#5cd3e0;--s6:#cda094;--s7:#f59bd0;--s8:#b4b4b4;--s9:#d6d75a;--h0:#1c2833;--h1:#1f3447;\
    --h2:#22415b;--h3:#264f71;--h4:#2b5f89;--h5:#3371a1;--h6:#4085b8;--h7:#579aca;--h8:#76b0d9;\
    --h9:#99c6e6;--h10:#bddcf1;--h11:#e4f3fc;--below:#5aa9f0;--inside:#39443a;--above:#ff9b5a;\
    --unknown:#262b30;";

/// The rules of the page, without the colours.
const RULES: &str = "
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:var(--ink);
background:var(--page);margin:0}
main{max-width:1280px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:26px;margin:8px 0 2px}
h2{font-size:19px;margin:36px 0 12px;border-bottom:1px solid var(--edge);padding-bottom:4px}
.lead,.note{color:var(--soft);margin:0 0 14px}.note{font-size:13px;margin:6px 0 12px}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(500px,100%),1fr));
gap:18px}
figure,details,table{background:var(--card);border:1px solid var(--edge)}
figure{border-radius:8px;margin:0;padding:12px 14px}
figcaption{font-weight:600}figure p{color:var(--soft);font-size:12.5px;margin:4px 0 0}
figure>svg{width:100%;height:auto;display:block}
svg text{font:11.5px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--grid)}.axis{stroke:var(--axis)}
.legend{font-size:12.5px;display:flex;flex-wrap:wrap;gap:2px 16px;margin:3px 0 4px}
.swatch{width:20px;height:12px;margin-right:5px;vertical-align:-1px}
table{border-collapse:collapse;font-size:13.5px}
th,td{text-align:left;padding:4px 12px;border-bottom:1px solid var(--edge);vertical-align:top}
th{font-weight:600;background:var(--head)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.differs td,tr.pooled td{background:var(--mark)}.scroll{overflow-x:auto}
.dot{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:7px}
details{border-radius:8px;margin:8px 0;padding:8px 14px}
summary{cursor:pointer}
.say{margin:6px 0;padding:6px 12px;border-radius:8px;max-width:860px;overflow-wrap:anywhere}
.world{background:var(--head);white-space:pre-wrap}
.agent{background:var(--agent);margin-left:36px}.agent.invalid{outline:1.5px solid var(--bad)}
.goal{margin:8px 0;font-weight:600}
.action{font-family:ui-monospace,Menlo,Consolas,monospace;font-weight:600;margin-right:10px}
.bad{color:var(--bad)}.good{color:var(--good)}.small{color:var(--soft);font-size:12.5px}
.alarm{stroke:var(--bad);stroke-dasharray:3 3}.flag{fill:var(--bad)}
";

/// The page's style sheet.
pub(crate) fn style_sheet() -> String {
    format!(
        "\n:root{{color-scheme:light dark;{LIGHT}}}\n\
         @media(prefers-color-scheme:dark){{:root{{{DARK}}}}}{RULES}"
    )
}

/// The rules of a picture, without the colours.
const PICTURE_RULES: &str = "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,\
    Arial,sans-serif;font-size:12px;fill:var(--soft)}.title{font-size:14px;font-weight:600;\
    fill:var(--ink)}.grid{stroke:var(--grid)}.axis{stroke:var(--axis)}\
    .alarm{stroke:var(--bad);stroke-dasharray:3 3}.flag{fill:var(--bad)}";

/// The style sheet of a picture that uses the colours of `drawing`: light ones, and dark ones on
/// dark screens.
pub(crate) fn picture_style(drawing: &str) -> String {
    let mut dark = with_colours(PICTURE_RULES, DARK);
    for ((name, light), (_, value)) in colours(LIGHT).zip(colours(DARK)) {
        for attribute in ["fill", "stroke"] {
            if drawing.contains(&format!("{attribute}=\"var({name})\"")) {
                let _ = write!(dark, "[{attribute}=\"{light}\"]{{{attribute}:{value}}}");
            }
        }
    }
    let light = light_colours(PICTURE_RULES);
    format!("{light}\n@media(prefers-color-scheme:dark){{{dark}}}")
}

/// Replaces the variables of a drawing by the colours for light screens.
pub(crate) fn light_colours(drawing: &str) -> String {
    with_colours(drawing, LIGHT)
}

fn with_colours(text: &str, list: &str) -> String {
    let mut text = text.to_owned();
    for (name, value) in colours(list) {
        text = text.replace(&format!("var({name})"), value);
    }
    text
}

/// The (variable, value) pairs of a list of colours.
fn colours(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split(';').filter_map(|entry| entry.split_once(':'))
}

/// The colour of line `index`.
pub(crate) fn colour(index: usize) -> &'static str {
    const COLOURS: [&str; 10] = [
        "var(--s0)",
        "var(--s1)",
        "var(--s2)",
        "var(--s3)",
        "var(--s4)",
        "var(--s5)",
        "var(--s6)",
        "var(--s7)",
        "var(--s8)",
        "var(--s9)",
    ];
    COLOURS[index % COLOURS.len()]
}

/// The colour of anything that belongs to no single run or evaluation set.
pub(crate) const GREY: &str = "var(--grey)";

/// Levels of a heat map, `--h0` … `--h11`: from the page's lightness to the strongest contrast.
pub(crate) const HEAT_LEVELS: usize = 12;
