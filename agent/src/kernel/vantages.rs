//! The interfaces that are watched, kept as the selection and the host want them.
//!
//! In flows the list of interfaces after each change, out flow attachments and an account of them. An
//! interface that was included by name has to be there, and to take the programs, when the agent starts;
//! of all others one that refuses is reported, counted and tried again, and the rest is watched.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use aya::Ebpf;

use super::{
    AttachOptions, Attachment, Interface, KernelError, Selection, Unwatched,
    attach::{self, Links, pins},
    choice::{self, Choice},
};

/// An interface that refused is asked again after this long, or when something about it changed.
const TRY_AGAIN: Duration = Duration::from_secs(25);

/// The interfaces that are watched.
#[derive(Debug)]
pub(super) struct Vantages {
    selection: Selection,
    options: AttachOptions,
    pin: bool,
    held: BTreeMap<u32, Held>,
    refused: BTreeMap<u32, Refused>,
    left_out: Vec<Unwatched>,
    account: Account,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    /// Interfaces attached to after the start.
    pub(super) appeared: u64,
    /// Interfaces that were watched and went away.
    pub(super) vanished: u64,
    /// Attempts to attach that failed.
    pub(super) failures: u64,
}

#[derive(Debug)]
struct Held {
    links: Links,
    attachments: [Attachment; 2],
}

#[derive(Debug)]
struct Refused {
    interface: Interface,
    reason: String,
    at: Instant,
}

impl Vantages {
    /// Watches nothing yet.
    pub(super) fn new(selection: Selection, options: AttachOptions, pin: bool) -> Self {
        Self {
            selection,
            options,
            pin,
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            left_out: Vec::new(),
            account: Account::default(),
        }
    }

    /// Attaches for the first time; on an error nothing stays attached.
    pub(super) fn start(&mut self, ebpf: &mut Ebpf, interfaces: &[Interface]) -> Result<(), KernelError> {
        all_named_are_there(&self.selection, interfaces)?;
        if self.pin {
            pins::sweep(interfaces);
        }
        // Pinned is last: what is refused must leave nothing behind.
        let pin = std::mem::take(&mut self.pin);
        let mut refusals = self.update(ebpf, interfaces);
        let by_name = |name: &str| self.selection.names().any(|other| other == name);
        if let Some(at) = refusals.iter().position(|(name, _)| by_name(name)) {
            return Err(refusals.swap_remove(at).1);
        }
        if let Some((_, error)) = refusals.pop()
            && self.held.is_empty()
        {
            // An agent that sees nothing of what is there is better ended.
            return Err(error);
        }
        self.account.appeared = 0;
        self.pin = pin;
        if pin { self.pin_all() } else { Ok(()) }
    }

    fn pin_all(&mut self) -> Result<(), KernelError> {
        let pinned = self.held.values_mut().try_for_each(|held| held.links.pin());
        if pinned.is_err() {
            for &index in self.held.keys() {
                pins::remove(index);
            }
        }
        pinned
    }

    /// Keeps up with `interfaces`: lets go of what is no longer wanted, attaches to what is now.
    pub(super) fn follow(&mut self, ebpf: &mut Ebpf, interfaces: &[Interface]) {
        for (interface, error) in self.update(ebpf, interfaces) {
            tracing::warn!(interface, %error, "an interface cannot be watched");
        }
    }

    /// Likewise; returns those that refuse, with the reason.
    fn update(&mut self, ebpf: &mut Ebpf, interfaces: &[Interface]) -> Vec<(String, KernelError)> {
        let Choice { watch, left_out } = choice::choose(&self.selection, interfaces);
        self.left_out = left_out;
        let wanted: BTreeSet<u32> = watch.iter().map(|interface| interface.index).collect();
        self.refused.retain(|index, _| wanted.contains(index));
        let gone: Vec<u32> = self.held.keys().copied().filter(|index| !wanted.contains(index)).collect();
        for index in gone {
            self.let_go(index, interfaces.iter().any(|interface| interface.index == index));
        }
        let mut refusals = Vec::new();
        for interface in watch {
            if let Some(held) = self.held.get_mut(&interface.index) {
                held.rename(&interface.name);
            } else if self.refused.get(&interface.index).is_none_or(|refused| refused.is_due(interface))
                && let Err(error) = self.take(ebpf, interface)
            {
                refusals.push((interface.name.clone(), error));
            }
        }
        refusals
    }

    fn take(&mut self, ebpf: &mut Ebpf, interface: &Interface) -> Result<(), KernelError> {
        let attached = attach::attach(ebpf, interface, &self.options).and_then(|(mut links, attachments)| {
            if self.pin {
                links.pin()?;
            }
            Ok(Held { links, attachments })
        });
        match attached {
            Ok(held) => {
                tracing::info!(interface = interface.name, "watching an interface");
                self.refused.remove(&interface.index);
                self.held.insert(interface.index, held);
                self.account.appeared += 1;
                Ok(())
            }
            Err(error) => {
                self.account.failures += 1;
                let reason = error.to_string();
                let refused = Refused { interface: interface.clone(), reason, at: Instant::now() };
                self.refused.insert(interface.index, refused);
                Err(error)
            }
        }
    }

    fn let_go(&mut self, index: u32, is_there: bool) {
        let Some(Held { links, attachments: [attachment, _] }) = self.held.remove(&index) else { return };
        let interface = attachment.interface;
        let detached = links.detach();
        if is_there {
            tracing::info!(interface, "an interface is no longer to be watched");
            if let Err(error) = detached {
                tracing::warn!(%error, "an interface cannot be let go of");
            }
        } else {
            // What was attached has gone with it.
            tracing::info!(interface, "an interface has gone");
            self.account.vanished += 1;
        }
    }

    /// Lets go of everything, bar what is pinned.
    pub(super) fn end(&mut self) -> Result<(), KernelError> {
        // One that fails must not keep the others attached.
        std::mem::take(&mut self.held).into_values().map(|held| held.links.detach()).fold(Ok(()), Result::and)
    }

    /// What is attached.
    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.held.values().flat_map(|held| &held.attachments)
    }

    /// What is not, though it was asked for.
    pub(super) fn unwatched(&self) -> impl Iterator<Item = Unwatched> {
        let refused = self.refused.values().map(|refused| Unwatched {
            interface: refused.interface.name.clone(),
            reason: refused.reason.clone(),
        });
        self.left_out.iter().cloned().chain(refused)
    }

    /// What is asked for.
    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// What happened since the start.
    pub(super) fn account(&self) -> Account {
        self.account
    }
}

/// An interface that is included by name has to be there when the agent starts: it may be a slip.
pub(super) fn all_named_are_there(
    selection: &Selection,
    interfaces: &[Interface],
) -> Result<(), KernelError> {
    let is_there = |name: &&str| interfaces.iter().any(|interface| interface.name == *name);
    let absent: Vec<_> = selection.names().filter(|name| !is_there(name)).collect();
    if absent.is_empty() { Ok(()) } else { Err(KernelError::NoInterface(absent.join(", "))) }
}

impl Held {
    fn rename(&mut self, name: &str) {
        for attachment in &mut self.attachments {
            if attachment.interface != name {
                name.clone_into(&mut attachment.interface);
            }
        }
    }
}

impl Refused {
    fn is_due(&self, interface: &Interface) -> bool {
        self.interface != *interface || self.at.elapsed() >= TRY_AGAIN
    }
}
