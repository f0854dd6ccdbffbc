"""Pages: server-rendered, complete without JavaScript, and behind a table of rights of their own."""
