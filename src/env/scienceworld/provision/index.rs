//! The user's package index: its address, its pages, and the addresses on them.

use std::path::{Path, PathBuf};

/// Where there is no configuration.
const DEFAULT_INDEX: &str = "https://pypi.org/simple";

/// The index that pip would use: `PIP_INDEX_URL`, then `index-url` of its configuration files.
pub(crate) fn configured(variable: impl Fn(&str) -> Option<String>) -> String {
    let filled = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    filled("PIP_INDEX_URL")
        .or_else(|| {
            let read = |path: PathBuf| std::fs::read_to_string(path).ok();
            configuration_files(&filled)
                .into_iter()
                .filter_map(read)
                .find_map(|text| index_url(&text))
        })
        .unwrap_or_else(|| DEFAULT_INDEX.into())
}

/// pip's configuration files, the strongest first (pip documentation, "Configuration files").
fn configuration_files(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    if let Some(path) = variable("PIP_CONFIG_FILE") {
        return vec![path.into()];
    }
    let name = if cfg!(windows) { "pip.ini" } else { "pip.conf" };
    let at = |base: &str, below: &str| {
        variable(base).map(|base| Path::new(&base).join(below).join(name))
    };
    [
        at("VIRTUAL_ENV", ""),
        at("XDG_CONFIG_HOME", "pip"),
        at("HOME", ".config/pip"),
        at("HOME", "Library/Application Support/pip"),
        at("HOME", ".pip"),
        at("APPDATA", "pip"),
        at("USERPROFILE", "pip"),
        at("ProgramData", "pip"),
        Some(Path::new("/etc").join(name)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `index-url` in the sections that hold for downloads.
fn index_url(text: &str) -> Option<String> {
    let (mut section, mut found) = (String::new(), None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_ascii_lowercase();
        }
        let Some((key, value)) = line.split_once(['=', ':']) else { continue };
        let key = key.trim().replace('_', "-");
        if key == "index-url" && !value.trim().is_empty() {
            match section.as_str() {
                "download" => return Some(value.trim().to_owned()),
                "global" => found = Some(value.trim().to_owned()),
                _ => {}
            }
        }
    }
    found
}

/// The page of a project in the index.
pub(crate) fn project_page(index: &str, project: &str) -> String {
    format!("{}/{project}/", index.trim_end_matches('/'))
}

/// The address of `file` on a project's page, be it JSON (PEP 691) or HTML (PEP 503).
pub(crate) fn find_file(page_url: &str, page: &str, file: &str) -> Option<String> {
    let links =
        if page.trim_start().starts_with('{') { json_links(page) } else { html_links(page) };
    let named = |link: &String| {
        let path = link.split(['#', '?']).next().unwrap_or_default();
        path.rsplit('/').next() == Some(file)
    };
    let link = links.into_iter().find(named)?;
    let link = link.split('#').next().unwrap_or_default();
    Some(join(page_url, link))
}

fn json_links(page: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Page {
        files: Vec<File>,
    }
    #[derive(serde::Deserialize)]
    struct File {
        url: String,
    }
    serde_json::from_str(page)
        .map_or_else(|_| Vec::new(), |p: Page| p.files.into_iter().map(|f| f.url).collect())
}

fn html_links(page: &str) -> Vec<String> {
    let after_href = page.split("href=").skip(1);
    after_href
        .filter_map(|rest| {
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            rest[1..].split(quote).next().map(|link| link.replace("&amp;", "&"))
        })
        .collect()
}

/// The address that `link` means on the page at `base`.
fn join(base: &str, link: &str) -> String {
    if link.contains("://") {
        return link.to_owned();
    }
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    if let Some(rest) = link.strip_prefix("//") {
        return format!("{}{rest}", &base[..scheme_end]);
    }
    let root_end = base[scheme_end..].find('/').map_or(base.len(), |at| scheme_end + at);
    let mut folders: Vec<&str> = match link.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => base[root_end..]
            .rsplit_once('/')
            .map_or(vec![], |(path, _)| path.split('/').skip(1).collect()),
    };
    for part in link.trim_start_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                folders.pop();
            }
            part => folders.push(part),
        }
    }
    format!("{}/{}", &base[..root_end], folders.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_the_one_that_pip_would_use() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pip.conf");
        std::fs::write(
            &file,
            "[install]\nindex-url = http://no\n[global]\nindex_url: http://g/simple\n",
        )
        .unwrap();
        let conf = file.display().to_string();
        let with = |pairs: Vec<(&str, String)>| {
            let pairs: Vec<(String, String)> =
                pairs.into_iter().map(|(k, v)| (k.into(), v)).collect();
            configured(move |name| {
                pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
            })
        };
        assert_eq!(with(vec![("PIP_CONFIG_FILE", conf.clone())]), "http://g/simple");
        assert_eq!(
            with(vec![("PIP_CONFIG_FILE", conf), ("PIP_INDEX_URL", "http://e".into())]),
            "http://e"
        );
        assert_eq!(with(vec![("PIP_CONFIG_FILE", "/nonexistent".into())]), DEFAULT_INDEX);
        assert_eq!(
            index_url("[global]\nindex-url=a\n[download]\nindex-url=b\n").as_deref(),
            Some("b")
        );
    }

    #[test]
    fn files_are_found_on_both_kinds_of_page() {
        let page = "http://h:1/root/simple/p/";
        let json = r#"{"files":[{"url":"../x-0.whl"},{"url":"https://f/a/x-1.whl"}]}"#;
        assert_eq!(find_file(page, json, "x-1.whl").unwrap(), "https://f/a/x-1.whl");
        let html =
            r##"<a href="../../files/x-1.whl#sha256=00&amp;a">x</a> <a href='/abs/y.whl'>y</a>"##;
        assert_eq!(find_file(page, html, "x-1.whl").unwrap(), "http://h:1/root/files/x-1.whl");
        assert_eq!(find_file(page, html, "y.whl").unwrap(), "http://h:1/abs/y.whl");
        assert_eq!(join("https://h/s/p/", "//cdn/x.whl"), "https://cdn/x.whl");
        assert_eq!(join("https://h/s/p/", "./x.whl"), "https://h/s/p/x.whl");
        for page_text in [html, json, "", "{"] {
            assert_eq!(find_file(page, page_text, "z.whl"), None);
        }
    }
}
