//! The state of the live view: events in, state out, no terminal and no network.
//!
//! In flow keys and what the agent sent, out flows what the panes draw and what the feed should ask
//! for. Invariant: the selection follows the client, not the row.

use std::collections::HashMap;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use hydrometer_proto::v1::{
    Anomaly, Client, ClientSort, GetClientResponse, GetStatusResponse, ListClientsResponse,
    WatchClientsResponse,
};
use jiff::Timestamp;

use super::{
    columns::SortBy,
    filter::{Context, Filter},
    keys::{self, Action, Step},
};
use crate::cli::words;

/// What the feed tells.
#[derive(Debug)]
pub enum Update {
    /// The connection is up; what follows is a new picture.
    Connected,
    /// The agent cannot be reached, and why.
    Lost(String),
    /// The clients now.
    Clients(WatchClientsResponse),
    /// An anomaly in its newest state.
    Anomaly(Box<Anomaly>),
    /// The agent's status.
    Status(Box<GetStatusResponse>),
    /// What the agent said when asked all about a client.
    Client {
        /// The address asked for.
        address: String,
        /// The answer.
        detail: Detail,
    },
}

/// What the feed should ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The clients that matter when there are more than the limit.
    pub sort: ClientSort,
    /// The client to ask all about.
    pub client: Option<String>,
}

/// Whether the agent is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not yet.
    Connecting,
    /// Yes.
    Live,
    /// Not now, and why; the feed keeps trying.
    Lost(String),
}

/// All about the opened client.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Detail {
    /// Not answered yet.
    #[default]
    Asking,
    /// The agent does not know the client (any more).
    Unknown,
    /// The answer.
    Known(Box<GetClientResponse>),
}

/// What fills the screen below the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// All clients.
    List,
    /// One client, scrolled down by some lines.
    Client {
        /// Its address.
        address: String,
        /// Lines above the screen.
        scroll: usize,
    },
}

/// The filter line while it is being typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typing {
    /// So far.
    pub text: String,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// Everything the panes draw.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "switches of the user, in any combination")]
pub struct App {
    /// Whether the agent is there.
    pub link: Link,
    /// The clients as drawn: the newest, or those of the moment of the pause.
    pub list: ListClientsResponse,
    /// Status, once known.
    pub status: Option<GetStatusResponse>,
    /// List or client.
    pub view: View,
    /// All about the opened client.
    pub detail: Detail,
    /// Sort column.
    pub sort: SortBy,
    /// Whether the order is turned around.
    pub reversed: bool,
    /// The filter in force, as typed.
    pub filter_text: String,
    /// The filter line, while open.
    pub typing: Option<Typing>,
    /// Whether the help lies over the rest.
    pub is_help_open: bool,
    /// Whether addresses are hidden.
    pub is_private: bool,
    /// Whether the picture stands still.
    pub is_paused: bool,
    /// The user wants to leave.
    pub is_done: bool,
    filter: Filter,
    open: HashMap<String, Anomaly>,
    newest: Option<ListClientsResponse>,
    newest_detail: Option<Detail>,
    rows: Vec<usize>,
    selected: Option<String>,
    row: usize,
    page: usize,
    pseudonyms: HashMap<String, usize>,
}

impl Default for App {
    fn default() -> Self {
        Self {
            link: Link::Connecting,
            list: ListClientsResponse::default(),
            status: None,
            view: View::List,
            detail: Detail::Asking,
            sort: SortBy::Figure(0),
            reversed: false,
            filter_text: String::new(),
            typing: None,
            is_help_open: false,
            is_private: false,
            is_paused: false,
            is_done: false,
            filter: Filter::default(),
            open: HashMap::new(),
            newest: None,
            newest_detail: None,
            rows: Vec::new(),
            selected: None,
            row: 0,
            page: 10,
            pseudonyms: HashMap::new(),
        }
    }
}

impl App {
    /// Takes in what the feed told.
    pub fn update(&mut self, update: Update) {
        match update {
            Update::Connected => {
                // Another agent, perhaps: its anomalies come anew. After a mere change of order they
                // come again as well, and in the meantime those known still hold.
                if self.link != Link::Live {
                    self.open.clear();
                }
                self.link = Link::Live;
            }
            Update::Lost(why) => self.link = Link::Lost(why),
            Update::Clients(message) => {
                self.link = Link::Live;
                self.newest = message.clients;
                self.thaw();
            }
            Update::Anomaly(anomaly) if words::is_raised(&anomaly) => {
                self.open.insert(anomaly.id.clone(), *anomaly);
            }
            Update::Anomaly(anomaly) => {
                self.open.remove(&anomaly.id);
            }
            Update::Status(status) => self.status = Some(*status),
            // An answer about a client that has been left in the meantime is dropped.
            Update::Client { address, detail } if self.opened() == Some(&address) => {
                self.newest_detail = Some(detail);
                self.thaw();
            }
            Update::Client { .. } => {}
        }
    }

    /// Shows the newest picture, unless it is to stand still.
    fn thaw(&mut self) {
        if self.is_paused {
            return;
        }
        if let Some(list) = self.newest.take() {
            self.list = list;
        }
        if let Some(detail) = self.newest_detail.take() {
            self.detail = detail;
        }
        self.arrange();
    }

    /// Takes in a key.
    pub fn key(&mut self, key: KeyEvent) {
        if let Some(typing) = self.typing.take() {
            return self.type_filter(typing, key);
        }
        let Some(action) = keys::action(key) else { return };
        if self.is_help_open && !matches!(action, Action::Quit) {
            self.is_help_open = false;
            return;
        }
        match action {
            Action::Quit => self.is_done = true,
            Action::Move(step) => self.step(step),
            Action::Open => self.open_selected(),
            Action::Back => self.back(),
            Action::NextSort => self.sort = self.sort.next(),
            Action::Reverse => self.reversed = !self.reversed,
            Action::Filter => {
                self.view = View::List;
                self.typing = Some(Typing { text: self.filter_text.clone(), error: None });
            }
            Action::Pause => {
                self.is_paused = !self.is_paused;
                self.thaw();
            }
            Action::Hide => self.is_private = !self.is_private,
            Action::Help => self.is_help_open = true,
        }
        self.arrange();
    }

    fn type_filter(&mut self, mut typing: Typing, key: KeyEvent) {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => self.is_done = true,
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => typing.text.clear(),
            KeyCode::Esc => return,
            KeyCode::Enter => match self.set_filter(&typing.text) {
                Ok(()) => return,
                Err(error) => typing.error = Some(error),
            },
            KeyCode::Backspace => {
                typing.text.pop();
                typing.error = None;
            }
            KeyCode::Char(letter) => {
                typing.text.push(letter);
                typing.error = None;
            }
            _ => {}
        }
        self.typing = Some(typing);
    }

    /// Puts a filter in force, or says what is wrong with it.
    pub fn set_filter(&mut self, text: &str) -> Result<(), String> {
        self.filter = Filter::parse(text)?;
        text.trim().clone_into(&mut self.filter_text);
        self.arrange();
        Ok(())
    }

    fn open_selected(&mut self) {
        if let (View::List, Some(address)) = (&self.view, &self.selected) {
            self.open_client(address.clone());
        }
    }

    /// Opens the page of one client.
    pub fn open_client(&mut self, address: String) {
        self.detail = Detail::Asking;
        self.newest_detail = None;
        self.view = View::Client { address, scroll: 0 };
    }

    fn back(&mut self) {
        if self.view == View::List {
            self.filter = Filter::default();
            self.filter_text.clear();
        } else {
            self.view = View::List;
        }
    }

    fn step(&mut self, step: Step) {
        let page = self.page.max(1);
        let moved = |at: usize, last: usize| match step {
            Step::Up => at.saturating_sub(1),
            Step::Down => (at + 1).min(last),
            Step::PageUp => at.saturating_sub(page),
            Step::PageDown => (at + page).min(last),
            Step::First => 0,
            Step::Last => last,
        };
        match &mut self.view {
            // The pane knows how long its text is, and stops there.
            View::Client { scroll, .. } => *scroll = moved(*scroll, usize::from(u16::MAX)),
            View::List => {
                self.row = moved(self.row, self.rows.len().saturating_sub(1));
                self.selected = self.client_at(self.row).map(|client| client.address.clone());
            }
        }
    }

    /// Filters and sorts, and finds the selected client again.
    fn arrange(&mut self) {
        let now = self.now();
        let kept = |client: &Client| self.filter.keeps(client, Context { now, kinds: &self.kinds(client) });
        let clients = &self.list.clients;
        let mut rows: Vec<usize> = (0..clients.len()).filter(|&index| kept(&clients[index])).collect();
        rows.sort_by(|&left, &right| self.sort.compare(&clients[left], &clients[right], now, self.reversed));
        self.rows = rows;
        let found = self.selected.as_ref().and_then(|selected| {
            self.rows.iter().position(|&index| self.list.clients[index].address == *selected)
        });
        // A client that has gone leaves the selection where it stood.
        self.row = found.unwrap_or(self.row.min(self.rows.len().saturating_sub(1)));
        self.selected = self.client_at(self.row).map(|client| client.address.clone());
        if self.is_private {
            for client in &self.list.clients {
                let next = self.pseudonyms.len() + 1;
                self.pseudonyms.entry(client.address.clone()).or_insert(next);
            }
        }
    }

    fn client_at(&self, row: usize) -> Option<&Client> {
        self.rows.get(row).map(|&index| &self.list.clients[index])
    }

    /// The clients to draw, in order.
    pub fn clients(&self) -> impl ExactSizeIterator<Item = &Client> {
        self.rows.iter().map(|&index| &self.list.clients[index])
    }

    /// The row of the selected client.
    pub fn selected_row(&self) -> usize {
        self.row
    }

    /// When the drawn list was read.
    pub fn now(&self) -> Timestamp {
        words::instant(self.list.time.as_ref()).unwrap_or_default()
    }

    /// Kinds of the client's open anomalies, as far as they are known.
    pub fn kinds(&self, client: &Client) -> Vec<i32> {
        client.open_anomalies.iter().filter_map(|id| self.open.get(id)).map(|anomaly| anomaly.kind).collect()
    }

    /// Anomalies open on this node.
    pub fn open_anomalies(&self) -> usize {
        self.open.len()
    }

    /// What the feed should ask for.
    pub fn wanted(&self) -> Wanted {
        Wanted { sort: self.sort.wanted(), client: self.opened().cloned() }
    }

    fn opened(&self) -> Option<&String> {
        match &self.view {
            View::Client { address, .. } => Some(address),
            View::List => None,
        }
    }

    /// How many lines a screen has, which page keys move by.
    pub fn set_page(&mut self, lines: usize) {
        self.page = lines;
    }

    /// Keeps a client's page from scrolling past its end.
    pub fn limit_scroll(&mut self, last: usize) {
        if let View::Client { scroll, .. } = &mut self.view {
            *scroll = (*scroll).min(last);
        }
    }

    /// `text` as it may be shown: with pseudonyms for the addresses of clients, when those are hidden.
    pub fn shown(&self, text: &str) -> String {
        if !self.is_private {
            return text.to_owned();
        }
        if let Some(number) = self.pseudonyms.get(text) {
            return format!("client-{number:03}");
        }
        // The longest first: 10.0.0.1 also begins 10.0.0.12.
        let mut known: Vec<_> = self.pseudonyms.iter().collect();
        known.sort_by_key(|(address, _)| std::cmp::Reverse(address.len()));
        known.into_iter().fold(text.to_owned(), |text, (address, number)| {
            text.replace(address, &format!("client-{number:03}"))
        })
    }
}
