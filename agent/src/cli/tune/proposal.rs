//! Settings that are proposed: a file, or none, and changes to it.

use std::{path::Path, str::FromStr};

use toml::{Table, Value};

use crate::config::{ConfigError, Settings};

/// A setting and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    /// The tables it is in, and its name.
    path: Vec<String>,
    value: Value,
}

impl Setting {
    pub(super) fn false_alarms(value: f64) -> Self {
        Self { path: vec!["engine".to_owned(), "false_alarms".to_owned()], value: Value::Float(value) }
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} sets nothing: write engine.logit_harvest.ratio=3, with the value as in TOML")
        };
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let mut table: Table = toml::from_str(&format!("value = {value}")).map_err(|_| wrong())?;
        let value = table.remove("value").filter(|_| table.is_empty()).ok_or_else(wrong)?;
        let path: Vec<String> = name.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) { Err(wrong()) } else { Ok(Self { path, value }) }
    }
}

/// The settings of `file`, or those that need no file, with these changes.
pub(super) fn settings(file: Option<&Path>, changes: &[Setting]) -> Result<Settings, ConfigError> {
    let mut table = file.map(Settings::table).transpose()?.unwrap_or_default();
    for Setting { path, value } in changes {
        put(&mut table, path, value.clone());
    }
    Settings::of_table(table)
}

fn put(table: &mut Table, path: &[String], value: Value) {
    let Some((name, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        // An integer is a number, too, and a setting that takes fractions is written as one.
        let is_fraction = table.get(name).is_some_and(Value::is_float);
        let value =
            value.as_integer().filter(|_| is_fraction).map_or(value, |whole| Value::Float(whole as f64));
        table.insert(name.clone(), value);
        return;
    }
    let inner = table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
    if !inner.is_table() {
        *inner = Value::Table(Table::new());
    }
    if let Value::Table(inner) = inner {
        put(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_a_name_and_a_value_as_in_toml() {
        let setting = |text: &str| text.parse::<Setting>();
        let ratio = setting("engine.logit_harvest.ratio=3").unwrap();
        assert_eq!((ratio.path.len(), ratio.value), (3, Value::Integer(3)));
        let kinds = setting(r#"engine.disabled=["flood", "hydra"]"#).unwrap();
        assert_eq!(kinds.value.as_array().map(Vec::len), Some(2));
        for wrong in ["engine.false_alarms", "engine..x=1", "=1", "engine.false_alarms=much", "a=1\nb=2"] {
            assert!(setting(wrong).unwrap_err().contains("sets nothing"), "{wrong}");
        }
    }

    #[test]
    fn changes_come_over_the_file_and_what_is_no_setting_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, "[engine]\nfalse_alarms = 2.0\ndisabled = [\"flood\"]\n").unwrap();
        let change = |text: &str| text.parse::<Setting>().unwrap();
        let changed =
            settings(Some(&file), &[change("engine.logit_harvest.ratio=3"), change("engine.false_alarms=1")]);
        let engine = changed.unwrap().engine().unwrap();
        assert_eq!((engine.logit_harvest.ratio, engine.false_alarms, engine.disabled.len()), (3.0, 1.0, 1));
        let unknown = settings(Some(&file), &[change("engine.mood=1")]).unwrap_err().to_string();
        assert!(unknown.contains("mood"), "{unknown}");
        let absurd =
            settings(None, &[change("engine.false_alarms=0")]).unwrap().engine().unwrap_err().to_string();
        assert!(absurd.contains("false_alarms is 0"), "{absurd}");
    }
}
