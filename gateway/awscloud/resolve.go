package awscloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const (
	searchWidth   = 16 // places asked at once
	maxCandidates = 20 // listed in a refusal
)

// answer is what Resolve remembers: a machine or a refusal.
type answer struct {
	instance *authz.Instance
	refusal  *authz.Refusal
}

// Resolve finds the one machine that name means. It uses no person's credentials and only describes.
//
// Names are looked for in every configured account and region unless suffixes say where. Ids end the search at the first hit; any other name needs the answer
// of every place, because only then is it known to mean one machine: where a place cannot answer, the name is refused and a suffix helps.
func (c *Cloud) Resolve(ctx context.Context, name string) (*authz.Instance, error) {
	key := strings.ToLower(name)
	if meant, ok := c.aliases[key]; ok {
		key = strings.ToLower(meant)
	}
	t, err := parseTarget(key, c.isAccount)
	if err != nil {
		return nil, err
	}
	if known, ok := c.recall(key); ok {
		return known.get(name)
	}
	result := c.flight.DoChan(key, func() (any, error) {
		if known, ok := c.recall(key); ok {
			return known, nil // an earlier flight has landed since we looked
		}
		ctx, end, ok := c.begin(ctx, c.cfg.ResolveTimeout)
		if !ok {
			return nil, &authz.Refusal{Reason: authz.ReasonShuttingDown, Subject: name}
		}
		defer end()
		found, err := c.findOrAskDNS(ctx, key, &t)
		if err != nil {
			return nil, err
		}
		c.learn(key, found)
		return found, nil
	})
	select {
	case <-ctx.Done(): // the search goes on for others who wait, within its own limit
		return nil, &authz.Refusal{Reason: authz.ReasonTimeout, Subject: name, Action: actionDescribeInstances, Cause: context.Cause(ctx)}
	case r := <-result:
		if r.Err != nil {
			named := *translate(r.Err, actionDescribeInstances, "")
			named.Subject = name
			return nil, &named
		}
		return r.Val.(answer).get(name)
	}
}

func (c *Cloud) isAccount(label string) bool {
	return accountIDPattern.MatchString(label) || slices.ContainsFunc(c.accounts, func(a *account) bool { return a.answersTo(label) })
}

func (a answer) get(name string) (*authz.Instance, error) {
	if a.refusal == nil {
		return a.instance, nil
	}
	named := *a.refusal
	named.Subject = name
	return nil, &named
}

// recall looks in both memories; learn writes to the one that fits.
func (c *Cloud) recall(key string) (answer, bool) {
	if known, ok := c.lasting.get(key); ok {
		return known, true
	}
	return c.brief.get(key)
}

func (c *Cloud) learn(key string, a answer) {
	if a.refusal == nil && (a.instance.State == stateRunning || a.instance.State == "") {
		c.brief.forget(key)
		c.lasting.add(key, a)
		return
	}
	c.brief.add(key, a)
}

// unlearn forgets a machine under all its names.
func (c *Cloud) unlearn(on *authz.Instance) {
	c.lasting.forgetAll(func(known answer) bool { return known.instance != nil && known.instance.ID == on.ID })
}

// find asks the places that the name allows. An error means that the answer is not known; "no" and "several" are answers.
func (c *Cloud) find(ctx context.Context, t *target) (answer, error) {
	places := c.placesFor(t)
	if len(places) == 0 {
		return answer{refusal: &authz.Refusal{Reason: authz.ReasonUnknownTarget, Detail: "no such account or region is configured"}}, nil
	}
	found, err := c.search(ctx, places, t)
	switch {
	case t.unique() && len(found) > 0:
		return answer{instance: found[0]}, nil
	case err != nil:
		return answer{}, err
	case len(found) == 0:
		return answer{refusal: &authz.Refusal{Reason: authz.ReasonUnknownTarget}}, nil
	case len(found) == 1:
		return answer{instance: found[0]}, nil
	default:
		return answer{refusal: &authz.Refusal{Reason: authz.ReasonAmbiguousTarget, Candidates: c.candidates(found)}}, nil
	}
}

// placesFor applies the suffixes. In configured accounts the list of regions is a fence; ambient credentials may be asked about any region.
func (c *Cloud) placesFor(t *target) []place {
	var places []place
	for _, a := range c.accounts {
		if t.account != "" && !a.answersTo(t.account) && !a.ambient {
			continue
		}
		regions := a.Regions
		if a.ambient && t.region != "" {
			regions = []string{t.region}
		}
		for _, region := range regions {
			if t.region == "" || t.region == region {
				places = append(places, place{a, region})
			}
		}
	}
	return places
}

// search asks all places, at most searchWidth at once, and gives what they found together with what went wrong.
func (c *Cloud) search(ctx context.Context, places []place, t *target) ([]*authz.Instance, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var found []*authz.Instance
	faults := make([]error, len(places))
	var group errgroup.Group
	group.SetLimit(searchWidth)
	for i, p := range places {
		group.Go(func() error {
			here, err := c.lookIn(ctx, p, t)
			mu.Lock()
			defer mu.Unlock()
			found, faults[i] = append(found, here...), err
			if t.unique() && len(here) > 0 {
				cancel() // nobody else can have it
			}
			return nil
		})
	}
	_ = group.Wait() // faults are kept by place
	found = slices.DeleteFunc(found, func(i *authz.Instance) bool {
		return t.account != "" && accountIDPattern.MatchString(t.account) && i.Account != t.account
	})
	return found, errors.Join(faults...)
}

func (c *Cloud) lookIn(ctx context.Context, p place, t *target) ([]*authz.Instance, error) {
	if t.form == formManaged {
		return c.managed(ctx, p, filterBy("InstanceIds", t.base))
	}
	query := t.query()
	if t.form != formName {
		return c.describe(ctx, p, query.filters, query.keep)
	}
	var machines, nodes []*authz.Instance
	var both errgroup.Group
	both.Go(func() (err error) { machines, err = c.describe(ctx, p, query.filters, query.keep); return err })
	both.Go(func() (err error) { nodes, err = c.managedNamed(ctx, p, t.base); return err })
	err := both.Wait()
	return slices.Concat(machines, nodes), err
}

// candidates lists what could be typed instead, each naming one machine.
func (c *Cloud) candidates(found []*authz.Instance) []string {
	slices.SortFunc(found, func(a, b *authz.Instance) int { return strings.Compare(a.Place(), b.Place()) })
	var lines []string
	for _, i := range found {
		if len(lines) == maxCandidates {
			lines = append(lines, fmt.Sprintf("… and %d more", len(found)-maxCandidates))
			break
		}
		lines = append(lines, fmt.Sprintf("%s.%s.%s  (%s, %s)", i.ID, i.Region, cmp.Or(c.aliasOf(i.Account), i.Account), i.Name, i.State))
	}
	return lines
}
