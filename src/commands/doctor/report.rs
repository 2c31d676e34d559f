//! The findings, for people and for scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::server::Facts;
use crate::settings::Problem;
use crate::version;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Requests fail because of it.
    Error,
    /// It works, but probably not as intended.
    Warning,
    /// Information, or something that cannot be determined from here.
    Note,
}

impl Level {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its severity.
    pub level: Level,
    /// Its kind, with a spelling that stays the same between versions.
    pub code: &'static str,
    /// The server, listener or setting that it concerns.
    pub subject: String,
    /// The observation.
    pub found: String,
    /// What to change; empty if nothing.
    pub change: String,
}

/// All findings.
#[derive(Debug, Default)]
pub struct Report {
    servers: Vec<Facts>,
    findings: Vec<Finding>,
}

impl Report {
    /// The findings, most severe first.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether no finding is an error.
    pub fn is_fine(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.all(|finding| finding.level != Level::Error)
    }

    pub(super) fn add(
        &mut self,
        level: Level,
        code: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
        change: impl Into<String>,
    ) {
        self.findings.push(Finding {
            level,
            code,
            subject: subject.into(),
            found: found.into(),
            change: change.into(),
        });
        self.findings.sort_by_key(|finding| finding.level);
    }

    pub(super) fn add_setting_warnings<'a>(&mut self, warnings: impl Iterator<Item = &'a Problem>) {
        for warning in warnings {
            let (subject, reason) = (warning.subject(), warning.reason());
            self.add(Level::Warning, "setting", subject, reason, "");
        }
    }

    pub(super) fn take_servers(&mut self, servers: Vec<Facts>) {
        self.servers = servers;
    }

    /// For people: one line per server, then the findings.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "{server}");
        }
        if !self.findings.is_empty() {
            text.push('\n');
        }
        for finding in &self.findings {
            let (level, subject) = (finding.level.name(), &finding.subject);
            let _ = writeln!(text, "{level:7}  {subject}: {}", finding.found);
            if !finding.change.is_empty() {
                let _ = writeln!(text, "         -> {}", finding.change);
            }
        }
        let count = |level| {
            let findings = self.findings.iter();
            findings.filter(|finding| finding.level == level).count()
        };
        let _ = writeln!(
            text,
            "\nerrors: {}, warnings: {}, notes: {}",
            count(Level::Error),
            count(Level::Warning),
            count(Level::Note)
        );
        text
    }

    /// For scripts. New versions may add fields, but do not remove any.
    pub fn json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "level": finding.level.name(),
                "code": finding.code,
                "subject": finding.subject,
                "found": finding.found,
                "change": finding.change,
            })
        });
        json!({
            "version": version::VERSION,
            "commit": version::COMMIT,
            "is_fine": self.is_fine(),
            "servers": self.servers.iter().map(Facts::json).collect::<Value>(),
            "findings": findings.collect::<Value>(),
        })
    }
}
