//! Campaigns that turn out to be one, and one that turns out to be two.
//!
//! Two campaigns become one when their members have come to look the same: the
//! older id stays, and takes them all; the younger closes and says what it has become a part of. Members that have come to
//! look otherwise leave, one by one; where most of those who found a campaign left the same one, that is split from
//! it. When everybody has followed, the one that was left takes them back: a campaign that changes its habits keeps its id.
//!
//! A look at a campaign costs its members, for each other campaign that was founded near it, once in ten minutes.
//! Invariant: a client is in one campaign at most; of two campaigns the older one stays.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ClientId, Nanos};

use super::{
    Campaign, Campaigns, FRESH, MEMBER_RADIUS,
    index::{Entry, Index},
    profile::Profile,
};

/// Between two looks at whether a campaign is the same as another.
const REVIEW_EVERY: Duration = Duration::from_mins(10);

/// Where so many times as many have left as have stayed, it is the few who have split off.
const MANY: usize = 4;

/// Campaigns whose members differ by so little on average, octaves, are one: sizes within 5 %.
const SAME: f32 = 0.07;

/// A member that has left: which campaign, and when.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Departure {
    campaign: u64,
    at: Nanos,
}

impl Campaigns {
    /// A member has left.
    pub(super) fn leave(&mut self, client: ClientId, campaign: u64, now: Nanos) {
        self.member_of.remove(&client);
        self.departed.insert(client, Departure { campaign, at: now });
    }

    /// The campaign that most of these clients have left.
    pub(super) fn origin(&self, founders: &[&Entry], now: Nanos) -> Option<u64> {
        let mut counts = BTreeMap::<u64, usize>::new();
        let departures = founders.iter().filter_map(|entry| self.departed.get(&entry.client));
        for departure in departures.filter(|departure| now.since(departure.at) <= FRESH) {
            *counts.entry(departure.campaign).or_default() += 1;
        }
        let (origin, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        (count * 2 > founders.len()).then_some(origin)
    }

    /// Lets campaigns that have become one be one.
    pub(super) fn reshape(&mut self, now: Nanos) {
        // The oldest first, which take in the others.
        let mut older = 0;
        while older < self.open.len() {
            let is_due = |campaign: &Campaign| now.since(campaign.reviewed) >= REVIEW_EVERY;
            let joining = (older + 1..self.open.len()).find(|younger| {
                let (elder, younger) = (&self.open[older], &self.open[*younger]);
                elder.part_of.is_none()
                    && younger.part_of.is_none()
                    && (has_followed(elder, younger)
                        || (is_due(elder) || is_due(younger)) && are_one(elder, younger, &self.index))
            });
            match joining {
                Some(younger) => self.merge(older, younger),
                None => older += 1,
            }
        }
        for campaign in self.open.iter_mut().filter(|campaign| now.since(campaign.reviewed) >= REVIEW_EVERY) {
            campaign.reviewed = now;
        }
    }

    /// The members of the younger become the elder's; the younger tells of them once more as it closes.
    fn merge(&mut self, elder: usize, younger: usize) {
        let id = self.open[elder].id.clone();
        let gone = &mut self.open[younger];
        gone.part_of = Some(id);
        let (centre, first_seen, last_seen) = (gone.centre, gone.first_seen, gone.last_seen);
        let members = gone.members.clone();
        let stays = &mut self.open[elder];
        let share = members.len() as f32 / (members.len() + stays.members.len()).max(1) as f32;
        stays.centre.approach(&centre, share);
        stays.first_seen = stays.first_seen.min(first_seen);
        stays.last_seen = stays.last_seen.max(last_seen);
        stays.has_news = true;
        for client in members.keys() {
            self.member_of.insert(*client, stays.number);
        }
        stays.members.extend(members);
    }
}

/// Whether the members of both look the same now. Two actors with the same tool may look alike; they rarely look the same.
fn are_one(elder: &Campaign, younger: &Campaign, index: &Index) -> bool {
    // Of those that never were near, such as those of another stack, it need not be asked.
    elder.centre.distance(&younger.centre) <= 4.0 * MEMBER_RADIUS
        && typical(elder, index)
            .zip(typical(younger, index))
            .is_some_and(|(elder, younger)| elder.distance(&younger) <= SAME)
}

/// What the members of a campaign look like now, on average.
fn typical(campaign: &Campaign, index: &Index) -> Option<Profile> {
    let mut profiles =
        campaign.members.keys().filter_map(|client| index.get(*client)).map(|entry| entry.profile);
    let mut typical = profiles.next()?;
    for (n, profile) in profiles.enumerate() {
        typical.approach(&profile, 1.0 / (n + 2) as f32);
    }
    Some(typical)
}

/// Whether all but a few have left the elder, for what was split from it.
fn has_followed(elder: &Campaign, younger: &Campaign) -> bool {
    let is_left = elder.members.len() * MANY <= younger.members.len();
    is_left && younger.split_from.as_ref() == Some(&elder.id)
}
