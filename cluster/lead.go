package cluster

// Leads reports whether this node leads the catalog: whether streams can be made and deleted.
func (c *Catalog) Leads() bool { return c.group.IsLeader() }

// CommitLag is how many entries of the catalog's log are not known to be committed.
func (c *Catalog) CommitLag() uint64 { return c.group.CommitLag() }
