//! The command line that all trainers have.

use super::example::Example;

const TRAINERS: [Example; 4] = [
    Example("alfworld_grpo"),
    Example("alfworld_ppo"),
    Example("sciworld_grpo"),
    Example("sciworld_ppo"),
];

#[test]
fn help_names_every_option() {
    for example in TRAINERS {
        example.help_names_every_option();
    }
}

#[test]
fn what_is_printed_is_read_back() {
    for example in TRAINERS {
        example.what_is_printed_is_read_back();
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    for example in TRAINERS {
        example.bad_arguments_are_refused_by_name();
    }
}
