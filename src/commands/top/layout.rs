//! How the lines of the screen are shared.

use super::panes::Pane;

/// The smallest screen, in columns and rows.
pub(super) const LEAST: (u16, u16) = (60, 16);

/// The number of tables.
const TABLES: usize = Pane::ALL.len();

/// The lines of the tables that problems leave: their titles, and two rows with the names of the columns.
pub(super) const LEAST_OF_TABLES: usize = TABLES + 3;

/// The number of lines below the title of each table. `wanted` is the number that each needs for all
/// of its rows and the names of its columns, or 1 for the note that it has no rows; `available` is the
/// number of lines for all tables with their titles.
///
/// Each table gets a line after the other until it has enough, and the one in focus two.
pub(super) fn heights(available: usize, wanted: [usize; TABLES], focus: usize) -> [usize; TABLES] {
    let mut left = available.saturating_sub(TABLES);
    let mut heights = [0; TABLES];
    let mut is_open = [true; TABLES];
    loop {
        let before = left;
        let others = (0..TABLES).filter(|index| *index != focus && is_open[*index]);
        for index in std::iter::once(focus).chain(others) {
            let turns = if index == focus { 2 } else { 1 };
            let given = turns.min(wanted[index] - heights[index]).min(left);
            heights[index] += given;
            left -= given;
        }
        if left < before && left > 0 {
            continue;
        }
        // The names of the columns alone say nothing: the last such table is closed.
        let is_useless = |index: &usize| heights[*index] == 1 && wanted[*index] > 1;
        let Some(useless) = (0..TABLES)
            .rev()
            .find(|index| *index != focus && is_useless(index))
        else {
            return heights;
        };
        (heights[useless], is_open[useless]) = (0, false);
        left += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_gets_what_it_needs_if_there_is_enough() {
        assert_eq!(heights(60, [5, 1, 20, 6, 3], 0), [5, 1, 20, 6, 3]);
    }

    #[test]
    fn the_lines_are_shared_and_the_table_in_focus_gets_more() {
        let shared = heights(21, [4, 1, 101, 20, 20], 2);
        assert_eq!(shared, [3, 1, 6, 3, 3]);
        assert_eq!(shared.iter().sum::<usize>(), 21 - 5);
    }

    #[test]
    fn a_table_without_space_for_a_row_is_closed() {
        assert_eq!(heights(11, [9, 1, 9, 9, 9], 4), [0, 1, 0, 0, 5]);
        assert_eq!(heights(0, [9, 9, 9, 9, 9], 0), [0; 5]);
        assert_eq!(heights(6, [9, 9, 9, 9, 9], 3), [0, 0, 0, 1, 0]);
    }
}
