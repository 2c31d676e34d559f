//! The table of `llamatower models list`.

use std::fmt::Write;

use indicatif::BinaryBytes;
use llamatower_layers::ModelName;
use serde::Deserialize;

/// The page `/status/models` of the admin listener.
#[derive(Debug, Deserialize)]
pub(super) struct ModelsPage {
    models: Vec<Row>,
    /// All servers.
    pub(super) servers: Vec<Server>,
}

/// A server of the gateway.
#[derive(Debug, Deserialize)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) is_ollama: bool,
    is_up: bool,
}

impl Server {
    /// Whether it has this name, or this host.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let host = self.name.rsplit_once(':').map(|(host, _)| host);
        self.name == name || host == Some(name)
    }
}

#[derive(Debug, Deserialize)]
struct Row {
    model: String,
    digests_differ: bool,
    servers: Vec<Holder>,
}

#[derive(Debug, Deserialize)]
struct Holder {
    name: String,
    size: u64,
    digest: String,
    is_in_memory: bool,
}

impl ModelsPage {
    /// The models on the disk of a server.
    pub(super) fn installed_on(&self, server: &str) -> Vec<ModelName> {
        let rows = self.models.iter();
        let rows = rows.filter(|row| row.servers.iter().any(|holder| holder.name == server));
        let names = rows.map(|row| ModelName::parse(&row.model));
        names.flatten().collect()
    }

    /// A line for each model, and one for the servers that are down.
    pub(super) fn table(&self) -> String {
        let rows = self.models.iter().map(Row::cells);
        let head = ["MODEL", "SIZE", "INSTALLED ON", "IN MEMORY ON"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2)];
        let mut text = String::new();
        for [model, size, installed, resident] in &rows {
            let [first, second, third] = widths;
            let line = format!("{model:first$}  {size:>second$}  {installed:third$}  {resident}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let down = self.servers.iter().filter(|server| !server.is_up);
        let down: Vec<_> = down.map(|server| &*server.name).collect();
        if !down.is_empty() {
            let names = down.join(", ");
            let _ = writeln!(
                text,
                "\nDown, so the list of their models may be wrong: {names}"
            );
        }
        text
    }
}

impl Row {
    fn cells(&self) -> [String; 4] {
        let size = self.servers.iter().map(|holder| holder.size).max();
        let installed = self.servers.iter().map(|holder| match self.digests_differ {
            true => format!("{} ({})", holder.name, short(&holder.digest)),
            false => holder.name.clone(),
        });
        let installed = installed.collect::<Vec<_>>().join(", ");
        let loaded = self.servers.iter().filter(|holder| holder.is_in_memory);
        let loaded: Vec<_> = loaded.map(|holder| &*holder.name).collect();
        [
            self.model.clone(),
            BinaryBytes(size.unwrap_or(0)).to_string(),
            match self.digests_differ {
                true => format!("{installed}: the digests differ"),
                false => installed,
            },
            loaded.join(", "),
        ]
    }
}

/// As many digits as Ollama shows.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn different_digests_of_one_name_and_servers_that_are_down_are_shown() {
        let page = r#"{"models": [
            {"model": "a:1b", "digests_differ": false, "servers": [
                {"name": "gpu-1:11434", "size": 2147483648, "digest": "00", "is_in_memory": true}]},
            {"model": "b:latest", "digests_differ": true, "servers": [
                {"name": "gpu-1:11434", "size": 1024, "digest": "0123456789abcdef", "is_in_memory": false},
                {"name": "gpu-2:11434", "size": 1024, "digest": "f123456789abcdef", "is_in_memory": false}]}
        ], "servers": [
            {"name": "gpu-1:11434", "is_ollama": true, "is_up": true},
            {"name": "gpu-2:11434", "is_ollama": true, "is_up": false}
        ]}"#;
        let page: ModelsPage = serde_json::from_str(page).unwrap();
        let table = page.table();
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].starts_with("MODEL"), "{table}");
        assert!(lines[1].contains("2.00 GiB  gpu-1:11434"), "{table}");
        assert!(lines[1].ends_with("gpu-1:11434"), "{table}");
        let differ = "gpu-1:11434 (0123456789ab), gpu-2:11434 (f123456789ab): the digests differ";
        assert!(lines[2].ends_with(differ), "{table}");
        assert!(lines[4].ends_with(" may be wrong: gpu-2:11434"), "{table}");
    }
}
