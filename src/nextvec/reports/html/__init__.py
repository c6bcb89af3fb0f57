"""What all pages share, those that a run leaves and the live one: charts as plain values, and pieces of HTML."""
