//! MITRE ATLAS 5.6.0: which tactic a technique serves, and what a sub-technique is part of.
//!
//! Anomalies name a technique or a sub-technique; what the matrix says beyond that is here.

/// The release of ATLAS that this file agrees with.
pub(super) const VERSION: &str = "5.6.0";

/// A technique in the matrix. Names are those of ATLAS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attack<'a> {
    /// Identifier and name of the tactic; none for a technique that this file does not know.
    pub tactic: Option<(&'static str, &'static str)>,
    /// Identifier and name.
    pub technique: (&'a str, &'a str),
    /// Identifier and name, where the finding is that precise.
    pub sub_technique: Option<(&'a str, &'a str)>,
}

/// Technique and its name, tactic and its name.
const TECHNIQUES: [(&str, &str, &str, &str); 6] = [
    ("AML.T0005", "Create Proxy AI Model", "AML.TA0001", "AI Attack Staging"),
    ("AML.T0008", "Acquire Infrastructure", "AML.TA0003", "Resource Development"),
    ("AML.T0024", "Exfiltration via AI Inference API", "AML.TA0010", "Exfiltration"),
    ("AML.T0029", "Denial of AI Service", "AML.TA0011", "Impact"),
    ("AML.T0034", "Cost Harvesting", "AML.TA0011", "Impact"),
    ("AML.T0040", "AI Model Inference API Access", "AML.TA0000", "AI Model Access"),
];

/// What a finding names `id` (such as "AML.T0024.002") and `name`; nothing when it names none.
pub(super) fn attack<'a>(id: &'a str, name: &'a str) -> Option<Attack<'a>> {
    if id.is_empty() {
        return None;
    }
    let Some((technique, tactic)) = TECHNIQUES.iter().find_map(|&(technique, own, tactic, tactic_name)| {
        let rest = id.strip_prefix(technique)?;
        (rest.is_empty() || rest.starts_with('.')).then_some(((technique, own), (tactic, tactic_name)))
    }) else {
        return Some(Attack { tactic: None, technique: (id, name), sub_technique: None });
    };
    let sub_technique = (id != technique.0).then_some((id, name));
    Some(Attack { tactic: Some(tactic), technique, sub_technique })
}

/// Where ATLAS describes a technique.
pub(super) fn url(id: &str) -> String {
    format!("https://atlas.mitre.org/techniques/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_technique_comes_with_what_it_is_part_of() {
        let attack = attack("AML.T0024.002", "Extract AI Model").unwrap();
        assert_eq!(attack.tactic, Some(("AML.TA0010", "Exfiltration")));
        assert_eq!(attack.technique, ("AML.T0024", "Exfiltration via AI Inference API"));
        assert_eq!(attack.sub_technique, Some(("AML.T0024.002", "Extract AI Model")));
    }

    #[test]
    fn a_technique_stands_alone_and_an_unknown_one_keeps_its_name() {
        assert_eq!(attack("AML.T0029", "Denial of AI Service").unwrap().sub_technique, None);
        for unknown in ["AML.T0240", "AML.T00241"] {
            let attack = attack(unknown, "Of later").unwrap();
            assert_eq!((attack.tactic, attack.technique), (None, (unknown, "Of later")));
        }
        assert_eq!(attack("", ""), None);
    }
}
