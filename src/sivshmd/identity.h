/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys and certificates of this VM's services: made when first needed, renewed at two thirds of
 * their life while somebody uses them, in memory alone.
 */
#ifndef SIVSHMD_IDENTITY_H
#define SIVSHMD_IDENTITY_H

#include <systemd/sd-event.h>

#include "cleanup.h"
#include "control.h"
#include "keypair.h"

struct identities;
struct identity_wait; /* owned by the store, see identity_wait_cancel() */

/** identity_fn - either @pair (borrowed, until the loop goes on) or @error; called once, from the
 * loop */
typedef void (*identity_fn)(const struct keypair *pair, const struct failure *error,
			    void *userdata);

/** identities_new() - @control is borrowed */
int identities_new(sd_event *event, struct control *control, struct identities **ret);
/** identities_free() - callbacks of those who wait are not called */
struct identities *identities_free(struct identities *s);
DEFINE_CLEANUP(struct identities *, identities_free)

/**
 * identity_want() - the certificate of @service
 * Returns 1 with @ret_pair (borrowed) when there is a valid one; 0 when @fn will be called, until
 * which @ret_wait cancels; or a negative errno with @error.
 */
int identity_want(struct identities *s, const char *service, identity_fn fn, void *userdata,
		  struct identity_wait **ret_wait, const struct keypair **ret_pair,
		  struct failure *error);
/** identity_wait_cancel() - NULL is fine; returns NULL */
struct identity_wait *identity_wait_cancel(struct identity_wait *w);

/** identity_hold() - keep a valid certificate at hand from now on; identity_unhold() ends it */
void identity_hold(struct identities *s, const char *service);
void identity_unhold(struct identities *s, const char *service);

/** identities_forget() - drop key and certificate of @service, or of all (NULL) */
void identities_forget(struct identities *s, const char *service);
/** identities_host_ready(), identities_host_lost() - as the control connection says */
void identities_host_ready(struct identities *s);
void identities_host_lost(struct identities *s, const struct failure *why);

/** identities_next() - walk: @index from 0; false behind the last. Only entries with a certificate.
 */
bool identities_next(const struct identities *s, unsigned *index, const char **ret_service,
		     const X509 **ret_certificate);

#endif
