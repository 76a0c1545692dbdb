//! Key bindings as data: the event loop looks keys up here, and the help and the footer print them.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Move or scroll by lines.
    Move(Step),
    /// Open the selected client.
    Open,
    /// Back to the list, or drop the filter.
    Back,
    /// Sort by the next column.
    NextSort,
    /// Turn the order around.
    Reverse,
    /// Type a filter.
    Filter,
    /// Freeze or thaw.
    Pause,
    /// Hide or show addresses.
    Hide,
    /// Show or leave the help.
    Help,
}

/// How far to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// One screen up.
    PageUp,
    /// One screen down.
    PageDown,
    /// To the first line.
    First,
    /// To the last line.
    Last,
}

/// One line of the help.
#[derive(Debug)]
pub struct Binding {
    /// Any of these.
    pub codes: &'static [KeyCode],
    /// As the help writes them.
    pub shown: &'static str,
    /// What happens.
    pub does: &'static str,
    /// The word in the footer; empty when it is not there.
    pub hint: &'static str,
    /// The action.
    pub action: Action,
}

const fn binding(
    codes: &'static [KeyCode],
    shown: &'static str,
    does: &'static str,
    hint: &'static str,
    action: Action,
) -> Binding {
    Binding { codes, shown, does, hint, action }
}

/// All bindings.
pub const BINDINGS: &[Binding] = &[
    binding(&[KeyCode::Up, KeyCode::Char('k')], "↑ k", "up", "", Action::Move(Step::Up)),
    binding(&[KeyCode::Down, KeyCode::Char('j')], "↓ j", "down", "", Action::Move(Step::Down)),
    binding(&[KeyCode::PageUp], "PgUp", "a screen up", "", Action::Move(Step::PageUp)),
    binding(&[KeyCode::PageDown], "PgDn", "a screen down", "", Action::Move(Step::PageDown)),
    binding(&[KeyCode::Home, KeyCode::Char('g')], "Home g", "first", "", Action::Move(Step::First)),
    binding(&[KeyCode::End, KeyCode::Char('G')], "End G", "last", "", Action::Move(Step::Last)),
    binding(&[KeyCode::Enter], "Enter", "all about the selected client", "client", Action::Open),
    binding(&[KeyCode::Esc], "Esc", "back to the list; in the list, drop the filter", "back", Action::Back),
    binding(&[KeyCode::Char('s')], "s", "sort by the next column", "sort", Action::NextSort),
    binding(&[KeyCode::Char('S')], "S", "reverse the order", "", Action::Reverse),
    binding(&[KeyCode::Char('/')], "/", "filter", "filter", Action::Filter),
    binding(&[KeyCode::Char(' ')], "Space", "pause and resume", "pause", Action::Pause),
    binding(&[KeyCode::Char('p')], "p", "pseudonymise addresses, for screen sharing", "hide", Action::Hide),
    binding(&[KeyCode::Char('?')], "?", "this help", "help", Action::Help),
    binding(&[KeyCode::Char('q')], "q", "quit", "quit", Action::Quit),
];

/// What a key does outside the filter line; Ctrl-C always quits.
pub fn action(key: KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
    }
    BINDINGS.iter().find(|binding| binding.codes.contains(&key.code)).map(|binding| binding.action)
}
