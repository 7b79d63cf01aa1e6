"""What `whimbrel doctor` does: `_examination` asks, `_findings` holds the answers, `_report` puts them into words."""
