/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bio-text.h"

#include <stdlib.h>
#include <string.h>

char *bio_text(BIO *bio)
{
	char *data = NULL, *text;
	long size = bio ? BIO_get_mem_data(bio, &data) : 0;

	if (size <= 0)
		return NULL;
	/* What a BIO holds has no NUL of its own. */
	text = malloc((size_t)size + 1);
	if (!text)
		return NULL;
	memcpy(text, data, (size_t)size);
	text[size] = '\0';
	return text;
}

int no_password(char *buffer, int size, int writing, void *userdata)
{
	(void)buffer, (void)size, (void)writing, (void)userdata;
	return -1;
}
