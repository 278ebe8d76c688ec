/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "qemu-args.h"
#include "table.h"

/** struct words - a growing list; @failed sticks, so that callers check once */
struct words {
	char **list;
	size_t n;
	bool failed;
};

char **qemu_args_free(char **args)
{
	for (char **a = args; a && *a; a++)
		free(*a);
	free(args);
	return NULL;
}

static void take_word(struct words *w, char *word)
{
	char **list = word ? reallocarray(w->list, w->n + 2, sizeof(*list)) : NULL;

	if (!list) {
		free(word);
		w->failed = true;
		return;
	}
	list[w->n++] = word;
	list[w->n] = NULL;
	w->list = list;
}

/* option() - two words: "-device" and its value */
static __attribute__((format(printf, 3, 4))) void option(struct words *w, const char *name,
							 const char *format, ...)
{
	char *value = NULL;
	va_list ap;

	va_start(ap, format);
	if (vasprintf(&value, format, ap) < 0)
		value = NULL;
	va_end(ap);
	take_word(w, strdup(name));
	take_word(w, value);
}

/* A comma in a value is written twice on QEMU's command line. */
static char *escape_commas(const char *path)
{
	char *out = malloc(2 * strlen(path) + 1), *o = out;

	for (const char *p = path; out && *p; p++) {
		if (*p == ',')
			*o++ = ',';
		*o++ = *p;
	}
	if (out)
		*o = '\0';
	return out;
}

static void table_options(struct words *w, const char *dir, const struct vm_config *vm,
			  const struct layout *layout)
{
	option(w, "-object",
	       "memory-backend-file,id=sivshm.table,mem-path=%s/vm/%s/grants,size=%zu,share=on,"
	       "readonly=on",
	       dir, vm->name, table_size(vm->channels));
	option(w, "-device", "ivshmem-plain,memdev=sivshm.table,addr=0x%x", layout->table_slot);
}

static void own_section_options(struct words *w, const char *dir, const struct layout_entry *e)
{
	option(w, "-chardev", "socket,path=%s/vm/%s/%s.sock,id=sivshm-%s", dir, e->owner,
	       e->region->name, e->region->name);
	option(w, "-device", "ivshmem-doorbell,chardev=sivshm-%s,vectors=%u,addr=0x%x",
	       e->region->name, e->region->vectors, e->pci_slot);
}

static void peer_section_options(struct words *w, const char *dir, const struct layout_entry *e)
{
	option(w, "-object",
	       "memory-backend-file,id=sivshm-%s.%s,mem-path=%s/region/%s/%s,size=%llu,share=on,"
	       "readonly=on",
	       e->region->name, e->owner, dir, e->region->name, e->owner,
	       (unsigned long long)e->region->section_size);
	option(w, "-device", "ivshmem-plain,memdev=sivshm-%s.%s,addr=0x%x", e->region->name,
	       e->owner, e->pci_slot);
}

static void control_options(struct words *w, const char *dir, const struct vm_config *vm)
{
	/* reconnect: a daemon that was stopped and started gets the port back without the guest's
	 * help */
	option(w, "-chardev", "socket,path=%s/vm/%s/control.sock,id=sivshm-control,reconnect=1",
	       dir, vm->name);
	option(w, "-device", "virtio-serial-pci,id=sivshm-serial");
	option(w, "-device",
	       "virtserialport,bus=sivshm-serial.0,chardev=sivshm-control,"
	       "name=org.sivshm.control.0");
}

int qemu_args(const char *runtime_dir, const struct vm_config *vm, const struct layout *layout,
	      char ***ret)
{
	_cleanup_free_ char *dir = escape_commas(runtime_dir);
	struct words w = {.failed = !dir};

	if (dir)
		table_options(&w, dir, vm, layout);
	for (size_t i = 0; dir && i < layout->n; i++) {
		if (layout->entries[i].own)
			own_section_options(&w, dir, &layout->entries[i]);
		else
			peer_section_options(&w, dir, &layout->entries[i]);
	}
	if (dir)
		control_options(&w, dir, vm);
	if (w.failed) {
		qemu_args_free(w.list);
		return -ENOMEM;
	}
	*ret = w.list;
	return 0;
}

/* xml_text() - print @text escaped for element content and attributes in single quotes */
static void xml_text(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (strchr("<>&'\"", *text))
			fprintf(f, "&#%d;", *text);
		else
			fputc(*text, f);
	}
}

static void xml_own_section(FILE *f, const char *dir, const struct layout_entry *e)
{
	fprintf(f, "  <shmem name='sivshm-%s' role='peer'>\n", e->region->name);
	fprintf(f, "    <model type='ivshmem-doorbell'/>\n    <server path='");
	xml_text(f, dir);
	fprintf(f, "/vm/%s/%s.sock'/>\n", e->owner, e->region->name);
	fprintf(f, "    <msi vectors='%u' ioeventfd='on'/>\n", e->region->vectors);
	fprintf(f,
		"    <address type='pci' domain='0x0000' bus='0x00' slot='0x%02x' "
		"function='0x0'/>\n",
		e->pci_slot);
	fprintf(f, "  </shmem>\n");
}

static void xml_control(FILE *f, const char *dir, const struct vm_config *vm)
{
	fprintf(f, "  <channel type='unix'>\n    <source mode='connect' path='");
	xml_text(f, dir);
	fprintf(f, "/vm/%s/control.sock'>\n", vm->name);
	fprintf(f, "      <reconnect enabled='yes' timeout='1'/>\n    </source>\n");
	fprintf(f, "    <target type='virtio' name='org.sivshm.control.0'/>\n  </channel>\n");
}

/* libvirt has no read-only shared memory: these go through its command line passage */
static int xml_read_only_sections(FILE *f, const char *runtime_dir, const struct vm_config *vm,
				  const struct layout *layout)
{
	_cleanup_free_ char *dir = escape_commas(runtime_dir);
	struct words w = {.failed = !dir};

	if (dir)
		table_options(&w, dir, vm, layout);
	for (size_t i = 0; dir && i < layout->n; i++)
		if (!layout->entries[i].own)
			peer_section_options(&w, dir, &layout->entries[i]);
	for (size_t i = 0; i < w.n; i++) {
		fprintf(f, "  <qemu:arg value='");
		xml_text(f, w.list[i]);
		fprintf(f, "'/>\n");
	}
	qemu_args_free(w.list);
	return w.failed ? -ENOMEM : 0;
}

int libvirt_xml(const char *runtime_dir, const struct vm_config *vm, const struct layout *layout,
		char **ret)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	int r;

	if (!f)
		return -ENOMEM;
	fprintf(f, "<devices>\n");
	for (size_t i = 0; i < layout->n; i++)
		if (layout->entries[i].own)
			xml_own_section(f, runtime_dir, &layout->entries[i]);
	xml_control(f, runtime_dir, vm);
	fprintf(f, "</devices>\n<qemu:commandline "
		   "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n");
	r = xml_read_only_sections(f, runtime_dir, vm, layout);
	fprintf(f, "</qemu:commandline>\n");
	if (fclose(f) != 0)
		r = -ENOMEM;
	if (r >= 0)
		*ret = TAKE_PTR(text);
	return r;
}
