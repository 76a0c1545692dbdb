//! Field masks: which fields of an anomaly a reader wants.

use std::{collections::HashMap, sync::LazyLock};

use hydrometer_proto::{DESCRIPTORS, v1::Anomaly};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _};
use prost_types::FieldMask;
use tonic::Status;

/// Fields by name, each with those within it that are wanted; none means all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mask(HashMap<String, Self>);

/// None when the built-in interface description is damaged, which a test rules out.
static ANOMALY: LazyLock<Option<MessageDescriptor>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok()?.get_message_by_name("hydrometer.v1.Anomaly"));

impl Mask {
    /// Refuses paths that there are not.
    pub(super) fn new(mask: Option<FieldMask>) -> Result<Self, Status> {
        let mut wanted = Self::default();
        for path in mask.into_iter().flat_map(|mask| mask.paths) {
            wanted.add(&path)?;
        }
        Ok(wanted)
    }

    /// The anomaly with nothing but what is wanted.
    pub(super) fn apply(&self, anomaly: Anomaly) -> Anomaly {
        let Some(descriptor) = ANOMALY.as_ref().filter(|_| !self.0.is_empty()) else { return anomaly };
        let mut message = DynamicMessage::new(descriptor.clone());
        let cut = message.transcode_from(&anomaly).and_then(|()| {
            self.keep(&mut message);
            message.transcode_to()
        });
        cut.unwrap_or(anomaly)
    }

    fn add(&mut self, path: &str) -> Result<(), Status> {
        let refuse = || Status::invalid_argument(format!("fields: an anomaly has no `{path}`"));
        let mut message = ANOMALY.clone();
        let mut mask = self;
        for name in path.split('.') {
            let field =
                message.as_ref().and_then(|message| message.get_field_by_name(name)).ok_or_else(refuse)?;
            // A path ends at a list: which of its elements would be meant cannot be said.
            message = field.kind().as_message().filter(|_| !field.is_list()).cloned();
            mask = mask.0.entry(name.to_owned()).or_default();
        }
        // The whole of it is wanted, whatever of it was named before.
        mask.0.clear();
        Ok(())
    }

    fn keep(&self, message: &mut DynamicMessage) {
        for field in message.descriptor().fields() {
            match self.0.get(field.name()) {
                None => message.clear_field(&field),
                Some(all) if all.0.is_empty() || !message.has_field(&field) => {}
                Some(some) => {
                    if let Some(inner) = message.get_field_mut(&field).as_message_mut() {
                        some.keep(inner);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hydrometer_proto::v1::{CampaignMember, Evidence};

    use super::*;

    fn mask(paths: &[&str]) -> Result<Mask, Status> {
        Mask::new(Some(FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }))
    }

    fn anomaly() -> Anomaly {
        Anomaly {
            id: "a".into(),
            client: "203.0.113.7".into(),
            evidence: Some(Evidence { summary: "why".into(), exchanges: 7, ..Evidence::default() }),
            members: vec![CampaignMember {
                client: "203.0.113.8".into(),
                reason: "alike".into(),
                anomalies: Vec::new(),
            }],
            ..Anomaly::default()
        }
    }

    #[test]
    fn what_is_not_named_is_left_out() {
        let evidence = Evidence { summary: "why".into(), ..Evidence::default() };
        let cases = [
            (
                &["id", "evidence.summary"][..],
                Anomaly { id: "a".into(), evidence: Some(evidence), ..Anomaly::default() },
            ),
            (&["members"], Anomaly { members: anomaly().members, ..Anomaly::default() }),
            (
                &["evidence.summary", "evidence"],
                Anomaly { evidence: anomaly().evidence, ..Anomaly::default() },
            ),
            (&["first_seen.seconds"], Anomaly::default()),
            (&[], anomaly()),
        ];
        for (paths, expected) in cases {
            assert_eq!(mask(paths).unwrap().apply(anomaly()), expected, "{paths:?}");
        }
    }

    #[test]
    fn paths_that_there_are_not_are_named() {
        for path in ["idd", "evidence.sum", "id.x", "members.client", "", "evidence."] {
            let refusal = mask(&["id", path]).unwrap_err();
            assert!(refusal.message().contains(&format!("`{path}`")), "{refusal}");
        }
    }
}
